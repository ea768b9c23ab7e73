// SPDX-License-Identifier: GPL-2.0-only
//! The hosts that are booted for tests, and what is tried in each.
//!
//! A boot takes some ten seconds, a Linux guest about as long: tests share a boot where they leave the host as they found it, with the module
//! loaded. Scripts run in busybox's shell; `wsvm`, `bare` and `guest` (see `initramfs/`), `/guests/NAME.bin`,
//! `/boot/vmlinuz` and `/lib/worldswitch/worldswitch.ko` are there.

use super::boot::{Boot, Test};
use super::expect::Expect::{Is, Lacks, Lines, Report, Says};
use crate::board::Board;
use crate::setup::kernel::Choice;

/// All of them, in the order in which they run.
pub fn boots() -> Vec<Boot> {
    vec![
        Boot { bare_guests: true, tests: DEFAULT_HOST, limit: 2400, ..Boot::of("virt") },
        Boot {
            kernel: Choice::new("bookworm", "armmp"),
            bare_guests: true,
            limit: 2400,
            tests: &[LOADED, LINUX_GUEST, RELOAD, CONFORMANCE],
            ..Boot::of("armmp")
        },
        Boot { tolerated: &["Hyp panic"], tests: HYP_PANICS, ..Boot::of("hyp-panics") },
        Boot { cpu: Some("cortex-a7"), bare_guests: true, tests: &[LINUX_GUEST], ..Boot::of("cortex-a7") },
        Boot { board: Board::VexpressA15, bare_guests: true, tests: &[LOADED], ..Boot::of("vexpress-a15") },
        Boot { board: Board::OrangepiPc, bare_guests: true, tests: &[LOADED], ..Boot::of("orangepi-pc") },
        Boot { board: Board::Mcimx7dSabre, bare_guests: true, tests: &[LOADED], ..Boot::of("mcimx7d-sabre") },
        Boot { board: Board::VirtEl1, load: false, tests: NOT_A_HOST, ..Boot::of("virt-el1") },
        Boot { qemu_args: &["-machine", "gic-version=3"], load: false, tests: NOT_A_HOST, ..Boot::of("gicv3") },
        Boot { board: Board::VexpressA15Secure, load: false, tests: NOT_A_HOST, ..Boot::of("vexpress-a15-secure") },
    ]
}

const LOADED: Test =
    Test::of("the module is loaded and /dev/kvm is there", "grep -q '^worldswitch ' /proc/modules && test -c /dev/kvm");

const LINUX_GUEST: Test =
    Test::of("Debian's kernel boots as a guest and its command's status comes back", "guest -c 'uname -nm; exit 3'")
        .failing(3)
        .within(180)
        .expecting(&[Is("guest armv7l")]);

const RELOAD: Test = Test::of(
    "unloaded and loaded ten times over, it runs a guest each time",
    "for round in 1 2 3 4 5 6 7 8 9 10; do
        rmmod worldswitch && insmod /lib/worldswitch/worldswitch.ko || exit 1
        bare first_light || exit 1
    done",
)
.within(300);

/// All VMs' entries are looked at from here on, until the module is loaded anew.
const CHECK_VMIDS: Test = Test::of(
    "entries into guests are checked for VMIDs of two VMs",
    "echo 1 >/sys/module/worldswitch/parameters/check_vmids && cat /sys/module/worldswitch/parameters/check_vmids",
)
.expecting(&[Is("1")]);

const ROLL_OVERS: Test = Test::of(
    "three hundred VMs use up all VMIDs ten times and more, and no two have the same",
    "cd /sys/module/worldswitch/parameters
    echo 1 >check_vmids
    before=$(cat vmid_roll_overs)
    kvm-conformance 'lifetimes: three hundred VMs' </dev/null || exit 1
    [ $(($(cat vmid_roll_overs) - before)) -ge 10 ]",
)
.within(600)
.expecting(&[Says("ok lifetimes: three hundred VMs")]);

/// A client of KVM that knows what KVM/ARM answered.
const CONFORMANCE: Test = Test::of("conformance", "kvm-conformance </dev/null").within(900).expecting(&[Report]);

const DEFAULT_HOST: &[Test] = &[
    LOADED,
    CHECK_VMIDS,
    Test::of("loading it twice is refused", "insmod /lib/worldswitch/worldswitch.ko")
        .failing(EEXIST)
        .expecting(&[Says("File exists")]),
    LINUX_GUEST,
    Test::of(
        "a guest sees the CPU, the timer and the interrupt controller of KVM",
        "guest -c 'cat /proc/cpuinfo /proc/interrupts; dmesg'",
    )
    .within(180)
    .expecting(&[Says("ARMv7"), Says("arch_timer"), Says("started in SVC mode"), Lacks("WARNING:"), Lacks("Oops")]),
    Test::of(
        "loading inside a guest is refused, and the guest lives",
        "guest -c 'insmod /lib/worldswitch/worldswitch.ko; echo status $?; dmesg | tail'",
    )
    .within(180)
    .expecting(&[Says("No such device"), Says("status 19")]),
    Test::of(
        "a guest with four CPUs on a host with two has them all",
        "guest -c 'grep -c ^processor /proc/cpuinfo' --cpus 4",
    )
    .within(300)
    .expecting(&[Is("4")]),
    RELOAD,
    Test::of(
        "a CPU goes and comes back, with a guest before, between and after",
        "online=/sys/devices/system/cpu/cpu1/online
        for round in 1 2 3; do
            for state in 0 1; do
                echo $state >$online || exit 1
                bare first_light || exit 1
            done
        done",
    ),
    Test::of(
        "hibernation's test, down to the core, leaves guests able to run",
        "echo core >/sys/power/pm_test || exit 1
        echo disk >/sys/power/state || exit 1
        echo none >/sys/power/pm_test
        dmesg | grep 'debug: Waiting'
        bare first_light",
    )
    .expecting(&[Says("Waiting for")]),
    Test::of(
        "a killed wsvm leaves nothing behind",
        "wsvm run --kernel /boot/vmlinuz --append console=ttyS0 </dev/null >/dev/null &
        sleep 3
        kill -9 $! || exit 1
        wait $!
        sleep 1
        rmmod worldswitch || exit 1
        insmod /lib/worldswitch/worldswitch.ko",
    ),
    Test::of(
        "wsvm says in one line that /dev/kvm is missing",
        "rmmod worldswitch
        wsvm run --kernel /guests/first_light.bin </dev/null 2>&1
        status=$?
        insmod /lib/worldswitch/worldswitch.ko
        exit $status",
    )
    .failing(1)
    .expecting(&[Says("/dev/kvm"), Lines(1)]),
    Test::of("wsvm says in one line that a kernel is missing", "wsvm run --kernel /nonexistent </dev/null 2>&1")
        .failing(1)
        .expecting(&[Says("/nonexistent"), Lines(1)]),
    Test::of("wsvm says in one line that a file is no kernel", "wsvm run --kernel /bin/busybox </dev/null 2>&1")
        .failing(1)
        .expecting(&[Says("/bin/busybox"), Lines(1)]),
    Test::of(
        "wsvm says in one line that a kernel is cut off",
        "head -c 1000000 /boot/vmlinuz >/tmp/cut && wsvm run --kernel /tmp/cut </dev/null 2>&1",
    )
    .failing(1)
    .expecting(&[Says("/tmp/cut"), Lines(1)]),
    Test::of(
        "wsvm says in one line that so much memory cannot be",
        "wsvm run --kernel /guests/first_light.bin --mem 8G </dev/null 2>&1",
    )
    .failing(1)
    .expecting(&[Lines(1)]),
    ROLL_OVERS,
    CONFORMANCE,
];

/// Exceptions in Hyp mode, provoked: each costs a vCPU and says so in the kernel's log, and the host goes on.
const HYP_PANICS: &[Test] = &[
    Test::of(
        "each exception in Hyp mode ends the guest that it hits, with a status of its own",
        "for kind in 1 2 3 4 5; do
            echo $kind >/sys/module/worldswitch/parameters/provoke_hyp_panic || exit 1
            wsvm run --kernel /guests/first_light.bin --mem 64M </dev/null 2>&1
            [ $? = 3 ] || exit 1
        done",
    )
    .expecting(&[Lines(5), Says("the guest died")]),
    Test::of("the next guests run, floating point and all", "bare first_light && bare vfp && bare timer_interrupt"),
    Test::of(
        "the kernel log has each with its registers",
        "dmesg | sed -n 's/.*Hyp panic: CPU [0-9]*: \\(.*\\) at 0x[0-9a-f]*, HSR.*/\\1/p'
        dmesg | grep -c 'Hyp panic: r0 and on'",
    )
    .expecting(&[Is("undefined instruction\nHVC\nprefetch abort\ndata abort\ndata abort\n5")]),
    Test::of("an unknown one is refused", "echo 9 2>&1 >/sys/module/worldswitch/parameters/provoke_hyp_panic")
        .failing(1),
];

/// What busybox's insmod ends with: the error number itself. It tries twice, by finit_module and by init_module.
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;

/// Hosts whose kernel was not started in Hyp mode, or whose GIC is another.
const NOT_A_HOST: &[Test] = &[
    Test::of("the module is refused with ENODEV", "insmod /lib/worldswitch/worldswitch.ko")
        .failing(ENODEV)
        .expecting(&[Says("No such device")]),
    Test::of(
        "the kernel log says why in one line",
        "dmesg | grep 'worldswitch: ' | grep -v taint | sed 's/^[^]]*]//' | sort -u",
    )
    .expecting(&[Lines(1)]),
    Test::of(
        "nothing is left of it, and a second try ends the same",
        "! grep -q '^worldswitch ' /proc/modules && ! test -e /dev/kvm && insmod /lib/worldswitch/worldswitch.ko",
    )
    .failing(ENODEV),
];
