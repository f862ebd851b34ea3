"""Chaos with real processes: kill, pause, cut, fill and clone, then judge the books."""
