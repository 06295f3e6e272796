"""`tvmlayers records list | merge | prune | diff`: tuned decisions."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from tvmlayers import records, tables, targets
from tvmlayers.cli.console import OUT, print_json
from tvmlayers.workload import KINDS


def add_commands(commands: Any) -> None:
    """Adds `records` with its own commands to the sub-parsers."""
    group = commands.add_parser("records", help="list and maintain tuned decisions")
    actions = group.add_subparsers(required=True, metavar="ACTION")

    action = actions.add_parser("list", help="print the user's and the shipped records")
    _add_filters(action)
    action.add_argument("--folder", type=Path, metavar="DIR", help="these instead")
    action.set_defaults(run=run_list)

    action = actions.add_parser("merge", help="the newest of each record goes into a folder")
    action.add_argument("sources", type=Path, nargs="+", metavar="SOURCE", help="folder or file")
    action.add_argument("--into", type=Path, required=True, metavar="DIR")
    action.add_argument("--json", action="store_true", help="print JSON")
    action.set_defaults(run=run_merge)

    action = actions.add_parser("prune", help="drop duplicates, and what the options name")
    _add_filters(action)
    action.add_argument("--folder", type=Path, metavar="DIR", help="default: the user's records")
    action.add_argument(
        "--tvm",
        nargs="?",
        const="installed",
        metavar="VERSION",
        help="those of other TVM versions than this one; without VERSION: the installed one",
    )
    action.add_argument("--slower", action="store_true", help="those no faster than untuned")
    action.add_argument("--before", metavar="DATE", help="those older than this ISO date")
    action.add_argument("--dry-run", action="store_true", help="only say what would go")
    action.set_defaults(run=run_prune)

    action = actions.add_parser("diff", help="print what differs between two sets of records")
    action.add_argument("a", type=Path, metavar="A", help="folder or file")
    action.add_argument("b", type=Path, metavar="B", help="folder or file")
    action.add_argument("--json", action="store_true", help="print JSON")
    action.set_defaults(run=run_diff)


def run_list(args: argparse.Namespace) -> int:
    """Prints one table a file, or all records as JSON."""
    if args.folder is not None:
        sources = {"folder": args.folder}
    else:
        named = {"user": records.find_user_folder(), "shipped": records.shipped_folder()}
        sources = {
            name: folder
            for name, folder in named.items()
            if folder is not None and os.path.isdir(folder)
        }
    rows = [
        {"source": name, "file": str(file.path), **_row(record)}
        for name, folder in sources.items()
        for file in records.read_all([folder])
        for record in file.records
        if _is_asked(record, args)
    ]
    if args.json:
        return print_json(rows)
    for title in dict.fromkeys(row["file"] for row in rows):
        shown = [row for row in rows if row["file"] == title]
        OUT.print(tables.records_table(f"{shown[0]['source']}: {title}", shown))
    if not rows:
        OUT.print("no records")
    return 0


def run_merge(args: argparse.Namespace) -> int:
    """Merges the sources and says how many records moved."""
    found = records.merge(args.sources, args.into)
    if args.json:
        return print_json(
            {
                "files": [str(path) for path in found.files],
                "added": found.added,
                "replaced": found.replaced,
                "unchanged": found.unchanged,
                "skipped": found.skipped,
            }
        )
    OUT.print(
        f"{args.into}: {found.added} added, {found.replaced} replaced, "
        f"{found.unchanged} unchanged, {found.skipped} skipped",
        soft_wrap=True,
    )
    return 0


def run_prune(args: argparse.Namespace) -> int:
    """Drops records and prints each with its reason."""
    folder = records.user_folder() if args.folder is None else args.folder
    is_empty = args.folder is None and not os.path.exists(folder)  # nothing was tuned yet
    dropped = (
        ()
        if is_empty
        else records.prune(
            folder,
            tvm=records.installed_tvm() if args.tvm == "installed" else args.tvm,
            slower=args.slower,
            before=args.before,
            target=_target_name(args.target),
            kind=args.kind,
            dry_run=args.dry_run,
        )
    )
    rows = [
        {"file": str(each.file), "reason": each.reason, **_row(each.record)} for each in dropped
    ]
    if args.json:
        return print_json(rows)
    if rows:
        OUT.print(tables.dropped_table(rows))
    verb = "would go" if args.dry_run else "dropped"
    OUT.print(f"{folder}: {len(rows)} {verb}", soft_wrap=True)
    return 0


def run_diff(args: argparse.Namespace) -> int:
    """Prints what B has more, less and otherwise than A."""
    found = records.diff(args.a, args.b)
    changed = [
        {
            **_row(change.after),
            "decisions": {name: list(pair) for name, pair in change.decisions.items()},
            "before_microseconds": change.before.microseconds,
            "ratio": round(change.ratio, 4),
        }
        for change in found.changed
    ]
    added, removed = ([_row(each) for each in side] for side in (found.added, found.removed))
    if args.json:
        return print_json(
            {"added": added, "removed": removed, "changed": changed, "same": found.same}
        )
    for title, rows in (("Added", added), ("Removed", removed)):
        if rows:
            OUT.print(tables.records_table(title, rows))
    if changed:
        OUT.print(tables.changes_table(changed))
    OUT.print(
        f"{len(added)} added, {len(removed)} removed, {len(changed)} changed, {found.same} same",
    )
    return 0


def _add_filters(action: argparse.ArgumentParser) -> None:
    action.add_argument("--target", help="only those for this one; see `tvmlayers targets`")
    action.add_argument("--kind", choices=sorted(KINDS), help="only those of this kernel")
    action.add_argument("--json", action="store_true", help="print JSON")


def _is_asked(record: records.Record, args: argparse.Namespace) -> bool:
    target = _target_name(args.target)
    return target in (None, record.target) and args.kind in (None, record.workload.kind)


def _target_name(name: str | None) -> str | None:
    return targets.native().name if name == "native" else name


def _row(record: records.Record) -> dict[str, Any]:
    return {
        "target": record.target,
        "name": str(record.workload),
        **record.to_dict(),
        "workload": record.workload.to_dict(),
        "usable": record.tvm == records.installed_tvm(),
    }
