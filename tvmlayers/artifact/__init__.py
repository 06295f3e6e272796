"""The artefact: its file, its manifest, the arena of its weights and how they are packed there."""
