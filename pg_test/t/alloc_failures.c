/*
 * Makes memory run out in one process of the server: loaded with LD_PRELOAD, told by t/alloc_failures.pl through the file
 * that ROWCLAIM_ALLOC names.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* All are int64 in native order. */
static volatile struct control
{
	int64_t		pid;		/* the process; 0: none */
	int64_t		own;		/* only allocations of the extension count */
	int64_t		first;		/* the first one that fails, from 1 */
	int64_t		count;		/* how many fail from there on */
	int64_t		calls;		/* how many there were */
	int64_t		failed;		/* how many failed */
	int64_t		sent;		/* something was sent to the client after that: no more fail */
} *control;

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

__attribute__((constructor)) static void
attach(void)
{
	const char *name = getenv("ROWCLAIM_ALLOC");
	int			file = name ? open(name, O_RDWR) : -1;
	void	   *map;

	if (file < 0)
		return;
	map = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (map != MAP_FAILED)
		control = map;
	close(file);
}

static int
is_own(void *caller)
{
	Dl_info		info;

	return dladdr(caller, &info) && info.dli_fname && strstr(info.dli_fname, "/rowclaim.so");
}

static int
fails(void *caller)
{
	int64_t		call;

	if (!control || !control->pid || control->pid != syscall(SYS_getpid))
		return 0;
	if (control->own && !is_own(caller))
		return 0;
	call = ++control->calls;
	if (call < control->first || control->failed >= control->count || control->sent)
		return 0;
	control->failed++;
	errno = ENOMEM;
	return 1;
}

void *
malloc(size_t size)
{
	return fails(__builtin_return_address(0)) ? NULL : __libc_malloc(size);
}

void *
calloc(size_t count, size_t size)
{
	return fails(__builtin_return_address(0)) ? NULL : __libc_calloc(count, size);
}

void *
realloc(void *old, size_t size)
{
	return fails(__builtin_return_address(0)) ? NULL : __libc_realloc(old, size);
}

void *
aligned_alloc(size_t alignment, size_t size)
{
	return fails(__builtin_return_address(0)) ? NULL : __libc_memalign(alignment, size);
}

int
posix_memalign(void **result, size_t alignment, size_t size)
{
	void	   *piece = fails(__builtin_return_address(0)) ? NULL : __libc_memalign(alignment, size);

	if (!piece)
		return ENOMEM;
	*result = piece;
	return 0;
}

/* The server sends an error as soon as it has one. */
ssize_t
send(int socket, const void *buffer, size_t length, int flags)
{
	if (control && control->pid == syscall(SYS_getpid) && control->failed)
		control->sent = 1;
	return syscall(SYS_sendto, socket, buffer, length, flags, NULL, 0);
}
