"""Tuned decisions as data: `<folder>/<target>/<kind>.json`, one record a line."""

from tvmlayers.errors import RecordError, RecordWarning
from tvmlayers.records.comparing import Change, Difference, diff
from tvmlayers.records.folders import file_of, find_user_folder, shipped_folder, user_folder
from tvmlayers.records.lookup import installed_tvm, load
from tvmlayers.records.merging import Summary, merge
from tvmlayers.records.parse import RecordFile
from tvmlayers.records.pruning import Dropped, prune
from tvmlayers.records.record import Record
from tvmlayers.records.sources import read_all
from tvmlayers.records.write import add

__all__ = [
    "Change",
    "Difference",
    "Dropped",
    "Record",
    "RecordError",
    "RecordFile",
    "RecordWarning",
    "Summary",
    "add",
    "diff",
    "file_of",
    "find_user_folder",
    "installed_tvm",
    "load",
    "merge",
    "prune",
    "read_all",
    "shipped_folder",
    "user_folder",
]
