"""What a process that is kept in store has loaded before it is forked: all that every run needs. It starts no thread
and touches no device: neither would survive the fork."""

import gptx.fit
import gptx.preflight  # noqa: F401
