"""What outlives a process: machine code, and what LLVM calls this machine, in a folder of the user's alone."""
