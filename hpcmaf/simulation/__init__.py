"""What finetuning apart does to a society, without a single language model."""
