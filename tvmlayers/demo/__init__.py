"""The demonstration behind `tvmlayers demo`: compile, train, compare with PyTorch, time.

Needs the `demo` extra: PyTorch trains the models, scikit-learn carries the digits.
"""
