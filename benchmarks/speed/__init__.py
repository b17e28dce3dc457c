"""Sections of RESULTS.md, one a module: `measure(plan)` gives what JSON holds, `render(data)` the text about it."""
