// Waits to be stopped, and reaps what a shared PID namespace leaves to it.
#include <signal.h>
#include <sys/wait.h>

int main(void)
{
    sigset_t awaited;
    int sig;

    sigemptyset(&awaited);
    sigaddset(&awaited, SIGINT);
    sigaddset(&awaited, SIGTERM);
    sigaddset(&awaited, SIGCHLD);
    sigprocmask(SIG_BLOCK, &awaited, 0);
    while (sigwait(&awaited, &sig) == 0) {
        if (sig != SIGCHLD)
            return 0;
        while (waitpid(-1, 0, WNOHANG) > 0)
            ;
    }
    return 1;
}
