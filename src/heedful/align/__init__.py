"""``heedful align``: run the stages in order, like make. All modules here follow the table in :mod:`heedful.align.stages`."""
