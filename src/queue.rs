//! Which job runs when, and what is remembered: the queue, its worker thread, history, the event stream.
//!
//! Deliberately does not know which nodes exist, nor what a tensor is.
