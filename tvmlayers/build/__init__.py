"""From a model to machine code for one target."""

from tvmlayers.build.compile import compile

__all__ = ["compile"]
