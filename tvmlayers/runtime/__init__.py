"""Running an artefact: tensors in, one call into compiled code, tensors out; no compiler.

`compiled` has the object that users call; `fastcall` is the short way for calls like the last one.
"""
