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
            tests: &[LOADED, LINUX_GUEST, HYP_ABI, KEPT, KEPT_WITHOUT_ANSWERS, RELOAD, CONFORMANCE],
            ..Boot::of("armmp")
        },
        // Cortex-A15's vectors empty the branch predictor one way, Cortex-A17's another, Cortex-A7's not at all. QEMU has no
        // Cortex-A17, but a Cortex-A15 may say that it is one.
        Boot { tolerated: &["Hyp panic"], tests: HYP_PANICS, ..Boot::of("hyp-panics") },
        Boot {
            cpu: Some("cortex-a15,midr=0x410fc0e1"),
            tolerated: &["Hyp panic"],
            tests: HYP_PANICS,
            ..Boot::of("hyp-panics-a17")
        },
        Boot { cpu: Some("cortex-a7"), tolerated: &["Hyp panic"], tests: HYP_PANICS, ..Boot::of("hyp-panics-a7") },
        Boot { cpu: Some("cortex-a7"), bare_guests: true, tests: &[LINUX_GUEST], ..Boot::of("cortex-a7") },
        Boot {
            // A revision whose HSR is not to be believed (erratum 766422): Thumb stores are read and decoded.
            cpu: Some("cortex-a15,midr=0x410fc0f4"),
            bare_guests: true,
            tests: &[LINUX_GUEST, ABORTS],
            ..Boot::of("cortex-a15-r0p4")
        },
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

/// A client of KVM that knows what KVM/ARM answered.
const CONFORMANCE: Test = Test::of("conformance", "kvm-conformance </dev/null").within(900).expecting(&[Report]);

const HYP_ABI: Test = Test::of(
    "calls of Hyp functions give their results on each CPU, and others are refused",
    "for cpu in 1 2; do
        taskset $cpu sh -c 'echo 1 >/sys/module/worldswitch/parameters/check_hyp_abi' || exit 1
    done
    ! dmesg | grep 'Hyp-ABI'",
);

/// Two guests with values of their own on CPU 0, a third that goes to and fro between both, and beside them on both the host's own process,
/// whose report the test's is. What a guest finds wrong is printed with it.
macro_rules! kept {
    ($answers:literal) => {
        concat!(
            "answers=/sys/module/worldswitch/parameters/hyp_answers
            echo ",
            $answers,
            " >$answers || exit 1
            host-witness 0,1 sh -c '
                taskset 1 bare patterns --append \"seed=1 rounds=2\" >/tmp/first & first=$!
                taskset 1 bare patterns --append \"seed=2 rounds=2\" >/tmp/second & second=$!
                bare patterns --append \"seed=3 rounds=2\" >/tmp/third & third=$!
                cpu=1
                while kill -0 $third 2>/dev/null; do
                    cpu=$((3 - cpu))
                    for wsvm in $(pidof wsvm); do
                        grep -q seed=3 /proc/$wsvm/cmdline || continue
                        for task in /proc/$wsvm/task/*; do taskset -p $cpu ${task##*/}; done
                    done
                done >/dev/null 2>&1
                wait $first && wait $second && wait $third'
            status=$?
            grep -h '^not ok' /tmp/first /tmp/second /tmp/third
            echo Y >$answers
            exit $status"
        )
    };
}

const KEPT: Test = Test::of("all that guests and a process of the host change is their own", kept!("Y"))
    .within(240)
    .expecting(&[Report]);
const KEPT_WITHOUT_ANSWERS: Test =
    Test::of("the same with no answers given in Hyp mode", kept!("N")).within(240).expecting(&[Report]);
/// Of these, loads and stores of all kinds.
const ABORTS: Test = Test::of("conformance", "kvm-conformance aborts </dev/null").within(300).expecting(&[Report]);

const DEFAULT_HOST: &[Test] = &[
    LOADED,
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
    HYP_ABI,
    KEPT,
    KEPT_WITHOUT_ANSWERS,
    Test::of(
        "a guest's use of VFP exchanges the registers once a stay, and a guest without it never",
        // An interrupt may end a stay between the exchange and the instruction that it was for.
        r#"count() { cat /sys/module/worldswitch/parameters/vfp_switches; }
        interrupts() {
            awk '{ for (i = 2; $i ~ /^[0-9]+$/; i++) sum += $i } END { print sum }' /proc/interrupts
        }
        before=$(count)
        bare first_light && bare banked || exit 1
        [ $(count) = $before ] || exit 1
        first=$(interrupts)
        bare vfp_switches --append exits=20000 || exit 1
        switches=$(($(count) - before))
        most=$((20001 + $(interrupts) - first))
        echo "$switches exchanges; at most $most"
        [ $switches -ge 20001 ] && [ $switches -le $most ]"#,
    ),
    Test::of(
        "where the host has no VFP a guest's is undefined, and the host's own unharmed",
        "rmmod worldswitch && insmod /lib/worldswitch/worldswitch.ko no_vfp=1 || exit 1
        host-witness 0,1 sh -c 'bare vfp_use --append vfp=0 >/tmp/guest'
        status=$?
        grep '^not ok' /tmp/guest
        [ $(cat /sys/module/worldswitch/parameters/vfp_switches) = 0 ] || status=1
        rmmod worldswitch && insmod /lib/worldswitch/worldswitch.ko && bare vfp_use >/dev/null || exit 1
        exit $status",
    )
    .expecting(&[Report]),
    RELOAD,
    Test::of(
        "what traps gets the same answers with those of Hyp mode turned off",
        "parameter=/sys/module/worldswitch/parameters/hyp_answers
        echo N >$parameter && bare conditional && bare undefined && bare aborts
        status=$?
        echo Y >$parameter
        exit $status",
    ),
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
    Test::of(
        "a process of the host beside them keeps its registers and its clock",
        "host-witness 0,1 sh -c '
            for kind in 1 2 3 4 5; do
                for cpu in 1 2; do
                    echo $kind >/sys/module/worldswitch/parameters/provoke_hyp_panic || exit 1
                    taskset $cpu wsvm run --kernel /guests/patterns.bin --mem 64M </dev/null >/dev/null 2>&1
                    [ $? = 3 ] || exit 1
                    taskset $cpu bare first_light >/dev/null || exit 1
                done
            done'",
    )
    .expecting(&[Report]),
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
