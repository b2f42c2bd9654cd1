"""From debates with gold answers to metrics with errors and tests."""
