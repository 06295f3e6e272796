"""What the writers of layers on AMX share."""

from collections.abc import Callable

from tvm.ir import GlobalVar

from tvmlayers.codegen import emit
from tvmlayers.codegen.cpu.kernel import Functions
from tvmlayers.codegen.private import with_text


class Written:
    """Private functions of one layer, each written once and added to `functions`."""

    def __init__(self, name: str, functions: Functions) -> None:
        self._name, self._functions = name, functions
        self._made: dict[str, GlobalVar] = {}

    def _function(self, label: str, body: Callable[[], None], text: str = "") -> GlobalVar:
        """The function of that label. text: LLVM's, of what its body calls."""
        if label not in self._made:
            made = self._made[label] = GlobalVar(f"{self._name}_{label}")
            function = emit.noinline(emit.private(body))
            if text:
                function = function.with_body(with_text(function.body, text))
            self._functions[made] = function
        return self._made[label]
