"""Automatic benchmarks (SPEC 4.2 to 4.4): the paper's fourteen data sets, the miniature's own, and lm-evaluation-harness.

- ``abilities``: scores of the miniature's built-in benchmarks.
- ``benchmark_data``, ``data_set_rows``: read each data set as published. ``prompt_formats``: makes the paper's prompts.
- ``task_table``: the table of tasks. ``series``: the items of one task in one setting.
  ``asking_models``: log-probabilities and samples. ``item_results``: stores the answers.
- ``benchmark_run``: a run that can be killed and started again. ``benchmark_scores``: metrics, intervals, comparisons.
- ``toxicity`` and ``truth_judges``: scores that need another model, or people.
- ``harness_model``: Heedful's models for lm-evaluation-harness, an optional dependency.
"""
