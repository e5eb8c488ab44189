"""Training of the shipped models: data, tokenizer, model, loop, export. See README.md in this folder."""
