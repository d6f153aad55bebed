"""Programs and what runs them: code in memory, frames, memory, threads."""
