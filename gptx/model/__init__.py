"""The GPT model: forward, KV cache, building it from a config, sampling, and its cost."""
