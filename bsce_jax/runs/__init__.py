"""The folder of a run: its lock and identity, its files, and opening its model again."""
