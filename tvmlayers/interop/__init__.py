"""Models of other frameworks as models of ours: one room a framework, loaded when asked for."""
