"""`python -m measured`: the command line where no script is installed."""

from measured.cli import app
from measured.project import project

app(prog_name=project().command)
