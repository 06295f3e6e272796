"""The benchmark of tvmlayers against its peers: `python -m bench dense|embedding|bag|model`.

`bench.cases` is the one list of cases, shared with the tests; it imports the standard library only.
"""
