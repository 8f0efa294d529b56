"""This trainer without compilation: what short runs get."""

from benchmarks.contenders import ours


class Contender(ours.Contender):
    compile = False
