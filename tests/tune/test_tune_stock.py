from __future__ import annotations

import pytest
from tuning_folders import Folders

import tvmlayers as tl
from tvmlayers.errors import TuneError


def test_stock_rules_are_measured_and_leave_no_record(folders: Folders) -> None:
    cases = ["dense 8x16x32:relu", "bag 5000x16x16x4:mean"]
    found = tl.tune(cases, trials=4, threads=1, space="stock", **folders.named)
    assert found.records is None
    assert not folders.records.exists()
    for each in found.workloads:
        assert each.space == "stock"
        assert each.trials == 4
        assert each.failures == {}
        assert each.microseconds > 0
        assert each.untuned_microseconds > 0
    assert {line["space"] for line in folders.trials()} == {"stock"}
    again = tl.tune(cases, trials=4, threads=1, space="stock", **folders.named)
    assert [each.measured for each in again.workloads] == [0, 0]


def test_what_stock_rules_cannot_take_is_refused(folders: Folders) -> None:
    with pytest.raises(TuneError, match="bags of one length"):
        tl.tune("bag 5000x16x16x0..4", trials=4, space="stock", **folders.named)
    with pytest.raises(TuneError, match="softmax in one function"):
        tl.tune("dense 8x16x32:softmax", trials=4, space="stock", **folders.named)
