# Small programs in one, as acts.c: `acts.sh NAME`, and `acts.sh` lists the names. $ACTS is the C program.
# Pipelines are bash's: the handler of SIGCHLD restarts calls there. In dash it does not, and the end of a pipeline's first process
# may interrupt a question that the second one's fork asks ("Signals" in docs/run.md).
exit_0() { exit 0; }
exit_3() { exit 3; }
exit_false() { false; }
exit_last() { bash -c 'true | false'; }
exit_missing() { no-such-program; }
exit_not_executable() { : > file; ./file; }
exit_killed() { kill -KILL $$; }
exit_hup() { kill -HUP $$; }
exit_trap() { trap 'echo left' EXIT; exit 4; }
signal_trap() { trap 'echo got' USR2; kill -USR2 $$; exit 5; }
# dash tells of a job on stderr if it ends while it is waited for, and not if it has ended before.
signal_child_term() { { sleep 60 & kill $!; wait $!; } 2> /dev/null; echo $?; }
files_redirected() { echo a > one; echo b >> one; cat < one > two; }
files_here() { cat > doc <<X
text
X
}
files_made() { mkdir -p a/b; ln -s a c; touch a/b/d; rm -r a; }
fds_numbered() { exec 5> five; echo told >&5; exec 5>&-; bash -c 'ls /proc/self/fd | wc -l'; }
fds_closed() { exec 0<&-; bash -c 'ls -l /proc/self/fd | grep -c null'; }
fds_many() { for i in 3 4 5 6 7 8 9; do eval "exec $i< /dev/null"; done; "$ACTS" fds_at_start; }
fork_background() { (exit 6) & wait $!; echo $?; }
fork_pipeline() { bash -c 'seq 100 | grep 7 | sort -r | head -3'; }
fork_substitution() { echo "$(echo a; exit 3) $?"; }
fork_nested() { sh -c 'sh -c "sh -c \"exit 8\""'; echo $?; }
exec_replaced() { exec "$ACTS" exit_255; }
exec_orphan() { (sleep 0.02; echo late) & exit 0; }
early_exec() { exec "$ACTS" early_close; }
early_child() { "$ACTS" early_exit; echo $?; }
early_background() { "$ACTS" early_fork & wait $!; echo $?; }
full_subshell() { ("$ACTS" full_spawn); echo $?; }
full_pipeline() { bash -c '"$ACTS" full_fork | cat'; }
if [ -n "$1" ]; then "$1"; else sed -n 's/^\([a-z0-9_]*\)() {.*/\1/p' "$0"; fi
