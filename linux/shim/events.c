// SPDX-License-Identifier: GPL-2.0-only
/*
 * Eventfds: signalled by guests' writes and ends of interrupts, and watched as interrupts that are to come (irqfds).
 */
#include <linux/eventfd.h>
#include <linux/file.h>
#include <linux/poll.h>
#include <linux/version.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "shim.h"

/* Ends of irqfds whose eventfd was closed. */
static struct workqueue_struct *closed_queue;

int ws_events_init(void)
{
	closed_queue = ws_allocation_fails() ? NULL : alloc_workqueue("worldswitch-irqfd", WQ_UNBOUND, 0);
	return closed_queue ? 0 : -ENOMEM;
}

void ws_events_exit(void)
{
	destroy_workqueue(closed_queue);
}

/* A reference to a descriptor's eventfd, or an ERR_PTR. */
void *ws_eventfd_get(u32 fd)
{
	return eventfd_ctx_fdget(fd);
}

void ws_eventfd_put(void *eventfd)
{
	eventfd_ctx_put(eventfd);
}

/* Wakes threads; no spin lock is held, since an irqfd of ours may be among those who are told. */
void ws_eventfd_signal(void *eventfd)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
	eventfd_signal(eventfd);
#else
	eventfd_signal(eventfd, 1);
#endif
}

struct irqfd {
	wait_queue_entry_t wait;
	poll_table table;
	struct work_struct closed;
	struct eventfd_ctx *eventfd;
	struct file *file; /* until it is watched */
	void *object;	   /* Rust's */
};

/* The eventfd's lock is held and interrupts are off; this may be in another device's interrupt handler. */
static int irqfd_woken(wait_queue_entry_t *wait, unsigned int mode, int sync, void *key)
{
	struct irqfd *irqfd = container_of(wait, struct irqfd, wait);
	__poll_t events = key_to_poll(key);

	if (events & EPOLLIN)
		ws_rust_irqfd_event(irqfd->object);
	/* Its file is released, which happens once. */
	if (events & EPOLLHUP)
		queue_work(closed_queue, &irqfd->closed);
	return 0;
}

static void irqfd_enqueue(struct file *file, wait_queue_head_t *queue, poll_table *table)
{
	add_wait_queue(queue, &container_of(table, struct irqfd, table)->wait);
}

static void irqfd_closed(struct work_struct *work)
{
	ws_rust_irqfd_closed(container_of(work, struct irqfd, closed)->object);
}

/* For a descriptor's eventfd; not watched yet. Or an ERR_PTR. */
void *ws_irqfd_create(u32 fd)
{
	struct irqfd *irqfd = ws_alloc(sizeof(*irqfd));
	long error;

	if (!irqfd)
		return ERR_PTR(-ENOMEM);
	INIT_WORK(&irqfd->closed, irqfd_closed);
	init_waitqueue_func_entry(&irqfd->wait, irqfd_woken);
	init_poll_funcptr(&irqfd->table, irqfd_enqueue);
	irqfd->file = fget(fd);
	if (!irqfd->file) {
		ws_free(irqfd);
		return ERR_PTR(-EBADF);
	}
	irqfd->eventfd = eventfd_ctx_fileget(irqfd->file);
	if (IS_ERR(irqfd->eventfd)) {
		error = PTR_ERR(irqfd->eventfd);
		fput(irqfd->file);
		ws_free(irqfd);
		return ERR_PTR(error);
	}
	return irqfd;
}

/* One more reference to the eventfd of an irqfd that is not watched yet, or an ERR_PTR. */
void *ws_irqfd_eventfd(void *memory)
{
	struct irqfd *irqfd = memory;

	return eventfd_ctx_fileget(irqfd->file);
}

/* Begins to watch; says whether the event has come already. The file is let go last: it may be closed by now. */
u32 ws_irqfd_watch(void *memory, void *object)
{
	struct irqfd *irqfd = memory;
	struct file *file = irqfd->file;
	__poll_t events;

	irqfd->object = object;
	irqfd->file = NULL;
	events = vfs_poll(file, &irqfd->table);
	fput(file);
	return !!(events & EPOLLIN);
}

/* Nothing of Rust's runs for it afterwards, unless this is called from there. */
void ws_irqfd_destroy(void *memory)
{
	struct irqfd *irqfd = memory;
	u64 count;

	if (irqfd->file) {
		fput(irqfd->file);
	} else {
		/* What has come was seen: it is not to be an interrupt again if the eventfd is. */
		eventfd_ctx_remove_wait_queue(irqfd->eventfd, &irqfd->wait, &count);
		if (current_work() != &irqfd->closed)
			cancel_work_sync(&irqfd->closed);
	}
	eventfd_ctx_put(irqfd->eventfd);
	ws_free(irqfd);
}

/* Waits for ws_rust_irqfd_closed to return wherever it runs. */
void ws_irqfd_flush(void)
{
	flush_workqueue(closed_queue);
}
