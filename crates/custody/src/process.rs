//! What one process knows of its own connections: runs inside the program, allocates nothing.
