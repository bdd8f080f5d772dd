//! Why the defaults are what they are.
//!
//! # `idle`: 5 s
//!
//! The longest silence of a peer that has not acknowledged everything. A living peer is silent while segments
//! are lost: on a short path retransmissions come after 0.2 (Linux's `TCP_RTO_MIN`), 0.4, 0.8 and 1.6 s (doubled each
//! time, RFC 6298), so four losses in a row of the same segment take 3 s. nginx waits 5 s, httpd 2 s. Below 3 s a peer on
//! a bad wireless link looks dead.
//!
//! A peer whose program has stopped reading is silent, too, and lives: its window is closed, and its kernel answers
//! window probes (RFC 9293 section 3.8.6.1). Silence does not tell such a peer from a dead one, since the gaps between
//! probes double and soon are longer than any `idle`. So the kernel is asked before a silent peer is given up. It counts
//! the probes (`icsk_probes_out`, reset by each answer in `tcp_ack`) and the retransmissions (`icsk_retransmits`) that were
//! not answered. Measured on Linux 6.18:
//!
//! | the peer | after 5 s | after 10 s | after 30 s |
//! |---|---|---|---|
//! | does not read, lives | 0 probes, at times 1 | 0, at times 1 | 0, at times 1 |
//! | does not read, gone | 1 probe (at 3.3 s) | 2 (6.9 s) | 4 (13.7, 27.4 s) |
//! | gone with data in flight, 400 ms of queue | 1 retransmission (2.6 s) | 2 (5.2 s) | 3 (10.4 s) |
//!
//! Fewer than two of each mean that the peer lives, and the close waits on: a client that reads nothing for 29 s gets
//! everything. A dead peer is given up after 10 s. Neither the time since the last acknowledgement nor the backoff
//! of the timer tells: both grow with the gaps, whether or not the probes are answered.
//!
//! # `total`: 30 s
//!
//! As nginx and httpd. It bounds what a peer can do that always makes a little progress. A large response over a
//! slow link needs (bytes still unsent) / (rate of the link): 1 MB at 256 kbit/s is 31 s; raise it for such
//! clients, and bound `max_discard` then.
//!
//! # `grace`: 0.5 s
//!
//! How long to stay after the peer has acknowledged everything and is silent. Nothing can be lost then on Linux:
//! a reset leaves the receive queue readable. Other systems may flush it, and most peers close within a round
//! trip, so half a second is spent, or eight round trips where that is more. No other server looks at
//! acknowledgements; they wait their whole time.
//!
//! It is for peers that are done. One whose request was still coming when the response was sent may pause in it, and
//! many clients (Python's `http.client` among them) read only when all is written: what they send after the close meets
//! a reset, their write fails, and they never look at the answer that has arrived. So a peer of which the close has
//! discarded anything is waited for as long as `idle`, as nginx does. So is one that has sent more than one segment:
//! the program may have read the beginning of an upload to the last byte that was there, so that nothing is left to
//! discard during the pause. And so is one whose HTTP request has announced more than has come, where a server of this
//! crate reads it. That leaves `grace` to those whose only request came in one piece.
//!
//! A peer that is done with its request may not be done with the response: its kernel has it, and its program has not read it. If that program
//! sends something later than `grace`, and reads only then, it meets a reset. Nothing that a kernel tells shows this in time. The window that the
//! peer last advertised (`tcpi_snd_wnd`) does not: Linux lets it grow while data comes, and tells of no reading any more once the FIN has come (`tcp_cleanup_rbuf`
//! asks for `RCV_SHUTDOWN`). Linux 6.18, loopback, in bytes, 65,536 at the start:
//!
//! | response | FIN acknowledged, all read before | FIN acknowledged, nothing read | after it was read |
//! |---|---|---|---|
//! | 3,000 | 100,352 | 100,352 | 100,352 |
//! | 30,000 | 98,304 | 98,304 | 98,304 |
//! | 60,000 | 95,232 | 68,608 | 68,608 |
//!
//! So only time protects such a peer. What time costs depends on who waits. A blocking close has a thread, a watcher or a task may hold a
//! permit, and a stop of the server waits for all closes: for these `grace` is the end, and [`Policy::patient`](crate::Policy::patient) is not the
//! default. A closer's socket costs a descriptor, 96 bytes and the kernel's socket, and no more once its outcome is told. So it stays
//! open after that, and what the peer sends late is read: see [`Budget::staying`](crate::Budget::staying) below.
//!
//! | a peer that has everything and keeps its socket open | has its close ended after | is closed after |
//! |---|---|---|
//! | linger, a closer with room (all adapters) | 0.55 s | 30.0 s |
//! | linger, blocking, or without room | 0.55 s | 0.55 s |
//! | nginx 1.22, `lingering_close always` | 5.0 s | 5.0 s |
//! | httpd 2.4, event | 30.0 s | 30.0 s |
//!
//! # `max_discard`: none
//!
//! A cap on bytes that closes at the cap brings the loss back (gunicorn's 64 KiB: 15 of 20 requests failed with
//! a 2 MB body). Here the cap stops the reading; the peer's window closes, and the close still waits for the
//! acknowledgement. It is off by default because discarding is cheap, and because a client that reads the
//! response only after its upload needs all of it read:
//!
//! | CPU seconds a discarded GB | |
//! |---|---|
//! | closer (`MSG_TRUNC`, a wake-up for 256 KiB) | 0.025 |
//! | the same with a wake-up for each segment (`SO_RCVLOWAT` unset) | 0.11 |
//! | reads of 4 KiB, nginx | 0.39 |
//! | reads of 512 bytes, httpd prefork | 0.87 |
//!
//! A small `SO_RCVBUF` while reading was tried and left out: 0.18 s a GB, since every filling of it costs a wake-up
//! and a window update. It is set when reading has stopped at the cap, or is held back by a budget: then it
//! keeps the kernel from filling a buffer that had grown to `tcp_rmem[2]`.
//!
//! # `at_limit`: close
//!
//! At a bound the kernel still delivers what it holds, if nothing is unread. `abort` frees its memory at once,
//! for servers whose `tcp_mem` is under attack.
//!
//! # `Budget::sockets`: half of the descriptors, at most 4,096
//!
//! 400 KB of the server's memory. The other half is for those who are served: clients that take their answers and then drip a byte now
//! and then cannot keep a server from accepting. A lingering socket costs 96 bytes, or up to 128 bytes if
//! `sockets_per_peer` is set, and no CPU while nothing happens; nginx needs some 10 KB for a connection that
//! has ended, httpd 41 KB. The kernel's share is its send queue.
//!
//! # `Budget::staying`: a quarter of the descriptors, at most 1,024
//!
//! Sockets that stay open behind a close that has ended with everything acknowledged. Nothing may be worse off for them, so they give way to
//! everything: one is let go for each new socket that `sockets` has no room for and at each [`evict`](crate::Closer::evict), all are at
//! [`finish`](crate::Closer::finish), when the last handle of the closer is dropped, and as soon as a socket comes whose descriptor's number is
//! in the upper half of what the process may have (the kernel gives the lowest free number, so that half of all are taken); where none comes, since none can be accepted, a look twice a second finds it. One that stays
//! longest goes when there is one too many. They are no part of `lingering`, and nothing of them is counted but their number. With `sockets_per_peer`
//! they are a part of their peer's, and the first of them to go.
//!
//! # Not waking at once
//!
//! The caller that hands a socket over sends its FIN; a thread does the rest and looks every 3 ms while it is busy.
//! By then most peers have closed, and one look ends the close. A thread that sleeps is woken.
//!
//! # `http::Unread`: 256 KiB, 256 MiB, 30 s, 5 s
//!
//! An unread body of up to 256 KiB that has arrived is discarded for the sake of its HTTP/1 connection: what Go's
//! net/http reads. It waits for none of it: if the connection's task has been polled twice and no byte was ready, none has
//! arrived. Behind a gateway that loses early answers, the response has to come after the upload:
//! [`Unread::behind_gateway`](../../http/struct.Unread.html#method.behind_gateway). It is not the default, since a client without
//! such a gateway would learn only after its upload that the upload was in vain, and no request says for sure that one is in front.
//!
//! Over HTTP/2 a stream that is reset before its upload has ended is a lost response with some clients (curl 7.88: every
//! third, none with the discarding). A client must read to get window updates, so that by the end of 256 MiB
//! it has seen the response. 30 s are [`Policy::total`](crate::Policy::total). The 5 s of silence, [`Policy::idle`](crate::Policy::idle), are for
//! clients that stop their upload without saying so, and wait for the server's reset.
