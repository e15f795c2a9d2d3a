"""The batch job: sources → index → Ray Data (read, decode, caption) → committed shards."""
