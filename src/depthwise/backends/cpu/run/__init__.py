"""Programs and what runs them: code in memory and on disk, frames, memory, threads."""
