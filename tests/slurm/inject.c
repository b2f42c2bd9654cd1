/* Lets an open() fail, once: preloaded into a job.
   INJECT_PATH: how the path ends; INJECT_ERRNO: the error; INJECT_MARK: a file, removed by the call that fails. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fails(const char *path)
{
    const char *end = getenv("INJECT_PATH"), *mark = getenv("INJECT_MARK"), *number = getenv("INJECT_ERRNO");
    size_t length = strlen(path);

    if (!end || !mark || !number || length < strlen(end) || strcmp(path + length - strlen(end), end))
        return 0;
    if (unlink(mark))
        return 0;
    errno = atoi(number);
    return 1;
}

#define OPEN(name)                                                             \
    int name(const char *path, int flags, ...)                                 \
    {                                                                          \
        static int (*real)(const char *, int, ...);                            \
        va_list rest;                                                          \
        mode_t mode;                                                           \
                                                                               \
        va_start(rest, flags);                                                 \
        mode = va_arg(rest, mode_t);                                           \
        va_end(rest);                                                          \
        if (!real)                                                             \
            real = dlsym(RTLD_NEXT, #name);                                    \
        return fails(path) ? -1 : real(path, flags, mode);                     \
    }

OPEN(open)
OPEN(open64)
