"""`python -m vae`: the command line where no script is installed."""

from vae.cli import app

app(prog_name="vae")
