// Blocks every signal, and prints each that arrives, with the value that came with it.
#include <signal.h>
#include <stdio.h>
int main(void) {
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, 0);
    puts("ready");
    fflush(stdout);
    for (;;) {
        siginfo_t told;
        int number = sigwaitinfo(&all, &told);
        if (number > 0) printf("%d %d\n", number, told.si_code == SI_QUEUE ? told.si_value.sival_int : 0);
        fflush(stdout);
    }
}
