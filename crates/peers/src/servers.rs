//! Servers as the matrix asks them.
