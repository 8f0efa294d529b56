"""How fast the trainer is, beside what else trains VAEs: `python -m benchmarks --help`."""
