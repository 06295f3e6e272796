"""TVM's RPC server on the emulated machine: `server.py PYTHON OPTION...`.

Its workers are started as `sys.executable`, which the host's kernel cannot run: PYTHON is a script
that calls the emulator.
"""

import runpy
import sys

sys.executable = sys.argv.pop(1)
runpy.run_module("tvm.exec.rpc_server", run_name="__main__", alter_sys=True)
