"""The demonstration behind `tvmlayers demo`: compile, train, compare with PyTorch, time.

Needs the `demo` extra: PyTorch is what it compares with, scikit-learn carries the digits.
"""
