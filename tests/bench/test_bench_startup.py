"""What comes before the first call: compiling, loading, memory."""

from __future__ import annotations

import json

from bench import startup


def test_each_figure_comes_from_processes_of_its_own(monkeypatch, tmp_path, capsys):
    for name in ("COMPILE_LARGE", "LOAD_LARGE"):
        smaller = getattr(startup, name).replace("4096", "512").replace("11008", "4096")
        monkeypatch.setattr(startup, name, smaller)
    path = tmp_path / "startup.json"
    assert startup.main(["--runs", "1", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    for name in ("compile seed, s", "load seed, CPU s"):
        assert 0 < found[name]["least"] <= found[name]["median"] <= found[name]["most"]
    said = capsys.readouterr().out
    for name in ("compile a large layer", "load a large layer"):
        assert found[f"{name}, in weights"]["peak"] > 0
        assert name in said
