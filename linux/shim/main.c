// SPDX-License-Identifier: GPL-2.0-only
/*
 * The module's entry and exit, /dev/kvm, and the descriptors that it hands out. Everything is passed on to Rust.
 */
#include <linux/anon_inodes.h>
#include <linux/bug.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/printk.h>

#include "shim.h"

void ws_log(u32 level, const char *text, unsigned long length)
{
	int bytes = min(length, 900UL);

	switch (level) {
	case 0:
		pr_err("worldswitch: %.*s\n", bytes, text);
		break;
	default:
		pr_info("worldswitch: %.*s\n", bytes, text);
	}
}

void ws_bug(void)
{
	BUG();
}

static int vm_release(struct inode *inode, struct file *file)
{
	ws_rust_release(WS_FD_VM, file->private_data);
	return 0;
}

static int vcpu_release(struct inode *inode, struct file *file)
{
	ws_rust_release(WS_FD_VCPU, file->private_data);
	return 0;
}

static int device_release(struct inode *inode, struct file *file)
{
	ws_rust_release(WS_FD_DEVICE, file->private_data);
	return 0;
}

static long system_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	return ws_rust_system_ioctl(command, argument);
}

static long vm_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	return ws_rust_vm_ioctl(file->private_data, command, argument);
}

static long vcpu_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	return ws_rust_vcpu_ioctl(file->private_data, command, argument);
}

static long device_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	return ws_rust_device_ioctl(file->private_data, command, argument);
}

static int vcpu_mmap(struct file *file, struct vm_area_struct *area)
{
	return ws_rust_vcpu_mmap(file->private_data, area, vma_pages(area), area->vm_pgoff);
}

int ws_vcpu_mmap_page(struct vm_area_struct *area, unsigned long index, void *lowmem)
{
	return vm_insert_page(area, area->vm_start + (index << PAGE_SHIFT), virt_to_page(lowmem));
}

/* 6.12 dropped no_llseek; a NULL llseek means the same from then on, and an anonymous inode's file never seeks before. */
static const struct file_operations system_operations = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = system_ioctl,
};

static const struct file_operations vm_operations = {
	.owner = THIS_MODULE,
	.release = vm_release,
	.unlocked_ioctl = vm_ioctl,
};

static const struct file_operations vcpu_operations = {
	.owner = THIS_MODULE,
	.release = vcpu_release,
	.unlocked_ioctl = vcpu_ioctl,
	.mmap = vcpu_mmap,
};

static const struct file_operations device_operations = {
	.owner = THIS_MODULE,
	.release = device_release,
	.unlocked_ioctl = device_ioctl,
};

/* A VM's is seen in debugfs by its number, and not before that; place: where what stands for it there is kept. */
int ws_vm_fd(void *object, void **place)
{
	struct file *file;
	int fd, error;

	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		return fd;
	error = ws_debugfs_add(object, fd, place);
	if (error)
		goto no_place;
	file = ws_allocation_fails() ? ERR_PTR(-ENOMEM) : anon_inode_getfile("kvm-vm", &vm_operations, object, O_RDWR);
	if (IS_ERR(file)) {
		error = PTR_ERR(file);
		goto no_file;
	}
	fd_install(fd, file);
	return fd;
no_file:
	ws_debugfs_remove(*place);
	*place = NULL;
no_place:
	put_unused_fd(fd);
	return error;
}

/* Their names are KVM's, by which tools know them in /proc/PID/fd. */
int ws_vcpu_fd(u32 number, void *object)
{
	char name[sizeof("kvm-vcpu:4294967295")];

	if (ws_allocation_fails())
		return -ENOMEM;
	snprintf(name, sizeof(name), "kvm-vcpu:%u", number);
	return anon_inode_getfd(name, &vcpu_operations, object, O_RDWR | O_CLOEXEC);
}

int ws_gic_fd(void *object)
{
	if (ws_allocation_fails())
		return -ENOMEM;
	return anon_inode_getfd("kvm-arm-vgic-v2", &device_operations, object, O_RDWR | O_CLOEXEC);
}

static struct miscdevice kvm_device = {
	.minor = KVM_MINOR,
	.name = "kvm",
	.fops = &system_operations,
	.mode = 0660,
};

int ws_device_register(void)
{
	int error = ws_events_init();

	if (error)
		return error;
	error = misc_register(&kvm_device);
	if (error)
		ws_events_exit();
	return error;
}

void ws_device_unregister(void)
{
	misc_deregister(&kvm_device);
	ws_events_exit();
}

static bool hyp_answers = true;

static int set_hyp_answers(const char *text, const struct kernel_param *parameter)
{
	int error = param_set_bool(text, parameter);

	if (!error)
		ws_rust_hyp_answers(hyp_answers);
	return error;
}

static const struct kernel_param_ops hyp_answers_operations = { .set = set_hyp_answers, .get = param_get_bool };

module_param_cb(hyp_answers, &hyp_answers_operations, &hyp_answers, 0644);
MODULE_PARM_DESC(hyp_answers, "Hyp mode itself answers what needs nothing of the host (default Y); N is for tests");

/* Writing anything has the Hyp-ABI checked on this CPU: an error, and lines in the log, if something is not as it should be. */
static int check_hyp_abi(const char *text, const struct kernel_param *parameter)
{
	return ws_rust_check_hyp_abi();
}

static const struct kernel_param_ops check_hyp_abi_operations = { .set = check_hyp_abi };

module_param_cb(check_hyp_abi, &check_hyp_abi_operations, NULL, 0200);
MODULE_PARM_DESC(check_hyp_abi, "has calls of Hyp functions checked on the CPU that writes to it");

/* A host without VFPv3, as far as guests go: their VFP and NEON instructions are undefined. */
static bool no_vfp;

module_param(no_vfp, bool, 0444);
MODULE_PARM_DESC(no_vfp, "guests have no VFP and NEON");

u32 ws_no_vfp(void)
{
	return no_vfp;
}

int ws_read_only(const char *text, const struct kernel_param *parameter)
{
	return -EPERM;
}

static int get_vfp_switches(char *buffer, const struct kernel_param *parameter)
{
	return scnprintf(buffer, PAGE_SIZE, "%u\n", ws_rust_vfp_switches());
}

static const struct kernel_param_ops vfp_switches_operations = { .set = ws_read_only, .get = get_vfp_switches };

module_param_cb(vfp_switches, &vfp_switches_operations, NULL, 0444);
MODULE_PARM_DESC(vfp_switches, "how often guests' first uses of VFP and NEON exchanged the registers (a vCPU's count when its descriptor is closed)");

static int set_check_vmids(const char *text, const struct kernel_param *parameter)
{
	bool on;
	int error = kstrtobool(text, &on);

	if (!error)
		ws_rust_set_check_vmids(on);
	return error;
}

static int get_check_vmids(char *text, const struct kernel_param *parameter)
{
	return sprintf(text, "%u\n", ws_rust_check_vmids());
}

static const struct kernel_param_ops check_vmids_operations = { .set = set_check_vmids, .get = get_check_vmids };

module_param_cb(check_vmids, &check_vmids_operations, NULL, 0600);
MODULE_PARM_DESC(check_vmids,
		 "checks at each entry into a guest that no other VM has its VMID; if one has, says so in the log and does not enter");

static int get_vmid_roll_overs(char *text, const struct kernel_param *parameter)
{
	return sprintf(text, "%u\n", ws_rust_vmid_roll_overs());
}

static const struct kernel_param_ops vmid_roll_overs_operations = { .set = ws_read_only, .get = get_vmid_roll_overs };

module_param_cb(vmid_roll_overs, &vmid_roll_overs_operations, NULL, 0400);
MODULE_PARM_DESC(vmid_roll_overs, "how often all VMIDs were used up, and all TLBs flushed to use them again (read only)");

static int __init worldswitch_init(void)
{
	return ws_rust_init();
}

static void __exit worldswitch_exit(void)
{
	ws_rust_exit();
}

module_init(worldswitch_init);
module_exit(worldswitch_exit);

MODULE_AUTHOR("Worldswitch maintainers");
MODULE_DESCRIPTION("Worldswitch: KVM (/dev/kvm) for 32-bit Arm hosts that started in Hyp mode");
MODULE_VERSION(WS_VERSION);
MODULE_LICENSE("GPL");
MODULE_INFO(cores, "Cortex-A7, A12, A15, A17 and their relatives; Armv8-A cores that run a 32-bit kernel");
MODULE_INFO(needs, "a GICv2 with a virtual CPU interface, and the generic timer, in the device tree");
MODULE_ALIAS_MISCDEV(KVM_MINOR);
MODULE_ALIAS("devname:kvm");
