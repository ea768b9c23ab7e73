// SPDX-License-Identifier: GPL-2.0-only
/*
 * /sys/kernel/debug/kvm: a file for each statistic with the sum over all VMs, and a folder PID-FD for each VM with the same files.
 * Reading counts nothing and waits for nobody's guest; writing 0 starts a figure anew. Without debugfs nothing is missed.
 */
#include <linux/debugfs.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/overflow.h>
#include <linux/pid.h>
#include <linux/sched.h>

#include "shim.h"

struct vm_figure {
	void *vm;
	u32 statistic;
};

/* A VM that is seen here. */
struct vm_seen {
	struct list_head list;
	void *vm;
	struct dentry *folder;
	struct vm_figure figures[];
};

static struct dentry *top; /* NULL: nothing is shown yet, or any more */
static LIST_HEAD(vms_seen);
static DEFINE_MUTEX(seen_lock); /* guards all of these, and the names of folders */

static int vm_figure_get(void *data, u64 *value)
{
	const struct vm_figure *figure = data;

	*value = ws_rust_statistic(figure->vm, figure->statistic);
	return 0;
}

static int vm_figure_set(void *data, u64 value)
{
	const struct vm_figure *figure = data;

	if (value)
		return -EINVAL;
	ws_rust_clear_statistic(figure->vm, figure->statistic);
	return 0;
}

DEFINE_DEBUGFS_ATTRIBUTE(vm_figure_operations, vm_figure_get, vm_figure_set, "%llu\n");

static int sum_get(void *data, u64 *value)
{
	struct vm_seen *seen;

	*value = 0;
	mutex_lock(&seen_lock);
	list_for_each_entry(seen, &vms_seen, list)
		*value += ws_rust_statistic(seen->vm, (unsigned long)data);
	mutex_unlock(&seen_lock);
	return 0;
}

static int sum_set(void *data, u64 value)
{
	struct vm_seen *seen;

	if (value)
		return -EINVAL;
	mutex_lock(&seen_lock);
	list_for_each_entry(seen, &vms_seen, list)
		ws_rust_clear_statistic(seen->vm, (unsigned long)data);
	mutex_unlock(&seen_lock);
	return 0;
}

DEFINE_DEBUGFS_ATTRIBUTE(sum_operations, sum_get, sum_set, "%llu\n");

/* A new folder, or none if somebody has the name. */
static struct dentry *folder(const char *name, struct dentry *parent)
{
	struct dentry *other;

	if (IS_ERR(parent))
		return parent;
	other = debugfs_lookup(name, parent);
	if (IS_ERR_OR_NULL(other))
		return debugfs_create_dir(name, parent);
	dput(other);
	return ERR_PTR(-EEXIST);
}

/*
 * Shows a VM that is about to get this descriptor. A VM whose descriptor is closed lives on while a vCPU's is open: another one of
 * its process may then get the same name, and no folder.
 */
int ws_debugfs_add(void *vm, int fd, void **place)
{
	struct vm_seen *seen;
	const char *name;
	char own_name[32];
	u32 i, count = 0;

	while (ws_rust_statistic_name(count))
		count++;
	seen = ws_alloc(struct_size(seen, figures, count));
	if (!seen)
		return -ENOMEM;
	seen->vm = vm;
	snprintf(own_name, sizeof(own_name), "%d-%d", task_pid_nr(current), fd);
	mutex_lock(&seen_lock);
	seen->folder = top ? folder(own_name, top) : ERR_PTR(-ENOENT);
	list_add_tail(&seen->list, &vms_seen);
	mutex_unlock(&seen_lock);
	for (i = 0; i < count; i++) {
		name = ws_rust_statistic_name(i);
		seen->figures[i].vm = vm;
		seen->figures[i].statistic = i;
		if (!IS_ERR(seen->folder))
			debugfs_create_file_unsafe(name, 0644, seen->folder, &seen->figures[i], &vm_figure_operations);
	}
	*place = seen;
	return 0;
}

/* On return nobody reads or clears the VM's figures any more. */
void ws_debugfs_remove(void *place)
{
	struct vm_seen *seen = place;

	mutex_lock(&seen_lock);
	list_del(&seen->list);
	/* Waits for those who read its files, who take no lock of ours. */
	if (!IS_ERR(seen->folder))
		debugfs_remove_recursive(seen->folder);
	mutex_unlock(&seen_lock);
	ws_free(seen);
}

/* Comes last when the module is loaded: an open file keeps it from being unloaded, but not from failing to load. */
void ws_debugfs_start(void)
{
	unsigned long i;
	const char *name;

	mutex_lock(&seen_lock);
	top = folder("kvm", NULL);
	for (i = 0; !IS_ERR(top) && (name = ws_rust_statistic_name(i)); i++)
		debugfs_create_file_unsafe(name, 0644, top, (void *)i, &sum_operations);
	mutex_unlock(&seen_lock);
}

/* No VM is left, and nobody makes one any more. */
void ws_debugfs_stop(void)
{
	if (!IS_ERR_OR_NULL(top))
		debugfs_remove_recursive(top);
	top = NULL;
}
