"""The command ``heedful``: each verb's help stands beside the code that it runs, in files by audience.

torch is imported only by the verbs that need it, and only when they run.
"""

from heedful.cli.entry import main

__all__ = ["main"]
