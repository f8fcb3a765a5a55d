"""``heedful align``: the stages in order, like make. :mod:`heedful.align.stages` is the table that everything else reads."""
