"""What `gptx sweep list`, `status`, `collect` and `cancel` do with a sweep that exists."""
