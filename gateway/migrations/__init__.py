"""The schema, step by step. Names are numbered; migrations expand first and contract later."""
