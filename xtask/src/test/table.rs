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
        Boot { disk: Some("64M"), bare_guests: true, tests: DEFAULT_HOST, ..Boot::of("virt") },
        Boot {
            kernel: Choice::new("bookworm", "armmp"),
            bare_guests: true,
            append: QUICK_RELOADS,
            tests: &[LOADED, LINUX_GUEST, HYP_ABI, KEPT, RELOAD, CONFORMANCE],
            ..Boot::of("armmp")
        },
        // Where the shim meets other interfaces of the kernel's: the oldest and the newest that are named in the README.
        Boot {
            kernel: Choice::new("bullseye", "armmp-lpae"),
            append: QUICK_RELOADS,
            tests: OTHER_KERNEL,
            ..Boot::of("bullseye")
        },
        Boot {
            kernel: Choice::new("forky", "armmp-lpae"),
            append: QUICK_RELOADS,
            tests: OTHER_KERNEL,
            ..Boot::of("forky")
        },
        // Cortex-A15's vectors empty the branch predictor one way, Cortex-A17's another, Cortex-A7's not at all. QEMU has no
        // Cortex-A17, but a Cortex-A15 may say that it is one.
        Boot { tolerated: &["Hyp panic"], tests: HYP_PANICS, ..Boot::of("hyp-panics") },
        Boot {
            cpu: Some("cortex-a15,midr=0x410fc0e1"),
            tolerated: &["Hyp panic"],
            tests: &HYP_PANICS[..EACH_VECTOR],
            ..Boot::of("hyp-panics-a17")
        },
        Boot {
            cpu: Some("cortex-a7"),
            tolerated: &["Hyp panic"],
            tests: &HYP_PANICS[..EACH_VECTOR],
            ..Boot::of("hyp-panics-a7")
        },
        Boot {
            cpu: Some("max"),
            tolerated: &["Hyp panic"],
            tests: HYP_PANICS_BY_FIRMWARE,
            ..Boot::of("hyp-panics-armv8")
        },
        Boot { append: QUICK_RELOADS, tests: LIFE, ..Boot::of("life") },
        Boot {
            mem: "640M",
            disk: Some("512M"),
            append: "no_console_suspend rodata=off",
            qemu_args: REBOOTS,
            tests: HIBERNATION,
            ..Boot::of("hibernation")
        },
        Boot { disk: Some("1M"), qemu_args: REBOOTS, tests: KEXEC, ..Boot::of("kexec") },
        Boot {
            append: "crashkernel=128M",
            limit: 600,
            tolerated: &["Kernel panic - not syncing: sysrq triggered crash"],
            tests: CRASH,
            ..Boot::of("crash")
        },
        Boot {
            cpu: Some("cortex-a7"),
            bare_guests: true,
            tests: &[LINUX_GUEST, REGISTERS, NO_GIC],
            ..Boot::of("cortex-a7")
        },
        // An Armv8 core in AArch32.
        Boot { cpu: Some("max"), tests: &[LOADED, LINUX_GUEST, REGISTERS, FIRMWARE_HARDENING], ..Boot::of("armv8") },
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

/// Unloading any module has the kernel empty the TLBs of all addresses between the modules' area and what vmalloc's gave back last,
/// page by page: 800 MiB of lowmem in between take QEMU seconds. So these have less of it, and more highmem.
const QUICK_RELOADS: &str = "vmalloc=800M";

const LOADED: Test =
    Test::of("the module is loaded and /dev/kvm is there", "grep -q '^worldswitch ' /proc/modules && test -c /dev/kvm");

const LINUX_GUEST: Test =
    Test::of("Debian's kernel boots as a guest and its command's status comes back", "guest -c 'uname -nm; exit 3'")
        .failing(3)
        .expecting(&[Is("guest armv7l")]);

const RELOAD: Test = Test::of(
    "unloaded and loaded ten times over, it runs a guest each time",
    "for round in 1 2 3 4 5 6 7 8 9 10; do
        rmmod worldswitch && insmod /lib/worldswitch/worldswitch.ko check_vmids=1 || exit 1
        bare first_light || exit 1
    done",
);

/// QEMU's firmware refuses the call. So it changes r0, and nothing worse.
const FIRMWARE_HARDENING: Test = Test::of(
    "guests that are left by way of firmware keep all that is theirs",
    "again() {
        rmmod worldswitch && insmod /lib/worldswitch/worldswitch.ko $1
    }
    again firmware_hardening=1 || exit 1
    host-witness 0,1 sh -c '{ bare first_light && bare patterns && bare vfp && bare sgi; } >/tmp/guests'
    status=$?
    grep '^not ok' /tmp/guests
    again && exit $status",
)
.expecting(&[Report]);

const LOAD_WITHOUT_MEMORY: Test = Test::of(
    "each allocation at load fails in turn: it does not load, for want of memory, until none fails",
    "rmmod worldswitch || exit 1
    n=1
    until insmod /lib/worldswitch/worldswitch.ko fail_allocation=$n 2>/tmp/why; do
        grep -q 'Out of memory\\|Cannot allocate memory' /tmp/why || { cat /tmp/why; exit 1; }
        n=$((n + 1))
    done
    left=$(cat /sys/module/worldswitch/parameters/fail_allocation)
    echo 0 >/sys/module/worldswitch/parameters/fail_allocation
    echo $((n - 1)) allocations
    [ $n -gt 20 ] && [ $left = 1 ] && bare first_light >/dev/null",
)
.expecting(&[Says("allocations")]);

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

/// Two kinds of guest to be busy while something is done to the host: Debian's kernel with two CPUs, which counts to ten, and
/// bare-metal ones that look at all of their registers, one after the other. `guests_are_well` waits for their ends, says how far the
/// count came, and fails unless all went well.
macro_rules! busy_guests {
    () => {
        "rm -f /tmp/over /tmp/ticks
        guest -c 'for i in $(seq 10); do echo tick $i; sleep 0.5; done' --cpus 2 >/tmp/ticks &
        linux=$!
        while [ ! -e /tmp/over ]; do
            bare banked && bare vfp && bare smp --cpus 4 || exit 1
        done >/tmp/bare &
        others=$!
        guests_are_well() {
            wait $linux
            counted=$?
            touch /tmp/over
            wait $others || { tail /tmp/bare; exit 1; }
            tail -n 1 /tmp/ticks
            return $counted
        }
        until grep -qs 'tick 2' /tmp/ticks; do
            kill -0 $linux || exit 1
            sleep 0.1
        done
        "
    };
}

/// A client of KVM that knows what KVM/ARM answered.
const CONFORMANCE: Test = Test::of("conformance", "kvm-conformance </dev/null").within(1800).expecting(&[Report]);

/// More memory than its control group may have, on a host with somewhere to put it.
const SWAP: Test = Test::of(
    "a guest's memory is swapped out and in under the guest",
    "group=/sys/fs/cgroup/guest
    swapped_in() { sed -n 's/^pswpin //p' /proc/vmstat; }
    mkswap /dev/vda >/dev/null && swapon /dev/vda || exit 1
    mount -t cgroup2 none /sys/fs/cgroup && echo +memory >/sys/fs/cgroup/cgroup.subtree_control && mkdir $group || exit 1
    echo 2M >$group/memory.max
    before=$(swapped_in)
    sh -c \"echo \\$\\$ >$group/cgroup.procs; kvm-conformance 'backings: memory that is swapped' </dev/null\"
    status=$?
    echo \"$(($(swapped_in) - before)) pages came back from the disk\"
    [ $(swapped_in) -gt $before ] || status=1
    rmdir $group && umount /sys/fs/cgroup && swapoff /dev/vda && exit $status",
)
.expecting(&[Says("ok backings: memory that is swapped")]);

const HYP_ABI: Test = Test::of(
    "calls of Hyp functions give their results on each CPU, and others are refused",
    "for cpu in 1 2; do
        taskset $cpu sh -c 'echo 1 >/sys/module/worldswitch/parameters/check_hyp_abi' || exit 1
    done
    ! dmesg | grep 'Hyp-ABI'",
);

/// Two guests with values of their own on CPU 0, the second with two vCPUs, a third with two that go to and fro between both CPUs, and
/// beside them on both the host's own process, whose report the test's is. What a guest finds wrong is printed with it.
macro_rules! kept {
    ($answers:literal) => {
        concat!(
            "answers=/sys/module/worldswitch/parameters/hyp_answers
            echo ",
            $answers,
            " >$answers || exit 1
            host-witness 0,1 sh -c '
                taskset 1 bare patterns --append \"seed=1 rounds=2\" >/tmp/first & first=$!
                taskset 1 bare patterns --cpus 2 --append \"seed=2 rounds=1\" >/tmp/second & second=$!
                bare patterns --cpus 2 --append \"seed=3 rounds=1\" >/tmp/third & third=$!
                round=0
                while kill -0 $third 2>/dev/null; do
                    round=$((round + 1))
                    for wsvm in $(pidof wsvm); do
                        grep -q seed=3 /proc/$wsvm/cmdline || continue
                        # One thread by each bit of the count: together and apart.
                        bits=$round
                        for task in /proc/$wsvm/task/*; do
                            taskset -p $((1 + bits % 2)) ${task##*/}
                            bits=$((bits / 2))
                        done
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

const KEPT: Test =
    Test::of("all that guests and a process of the host change is their own", kept!("Y")).expecting(&[Report]);
const KEPT_WITHOUT_ANSWERS: Test =
    Test::of("the same with no answers given in Hyp mode", kept!("N")).expecting(&[Report]);
/// What a vCPU is called, has and reads as on this core.
const REGISTERS: Test = Test::of("conformance", "kvm-conformance registers vcpu 'vm: the preferred target' </dev/null")
    .expecting(&[Report]);

/// Recent schedulers stop a thread that has used up its quota on its way to user mode only, to where a busy guest never leaves by itself.
const QUOTA: Test = Test::of(
    "a guest that needs nothing of its process gets no more of a CPU than its cgroup may use",
    "mount -t cgroup2 none /sys/fs/cgroup && cd /sys/fs/cgroup || exit 1
    echo +cpu >cgroup.subtree_control && mkdir quota && echo 20000 100000 >quota/cpu.max || exit 1
    guest -c 'echo started; while :; do :; done' </dev/null >/tmp/quota 2>&1 &
    until grep -q started /tmp/quota; do
        kill -0 $! || exit 1
        sleep 0.1
    done
    monitor=$(pidof wsvm)
    echo $monitor >quota/cgroup.procs || exit 1
    figures() {
        cut -d' ' -f1 /proc/uptime
        sed -n 's/usage_usec //p' quota/cpu.stat
    }
    before=$(figures)
    sleep 4
    echo $before $(figures) | awk '{
        share = ($4 - $2) / 1e4 / ($3 - $1)
        print share \" per cent\"
        exit share < 5 || share > 50
    }'
    status=$?
    kill $monitor
    exit $status",
);

/// Of these, what a KVM_RUN could get wrong that begins again.
const QUOTA_CALLS: Test = Test::of(
    "conformance, with little of a CPU",
    "cd /sys/fs/cgroup && { [ -e cgroup.procs ] || mount -t cgroup2 none /sys/fs/cgroup && cd /sys/fs/cgroup; } || exit 1
    echo +cpu >cgroup.subtree_control && mkdir -p little && echo 5000 10000 >little/cpu.max || exit 1
    echo $$ >little/cgroup.procs
    kvm-conformance 'run: a signal' 'run: however' 'user irq' </dev/null
    status=$?
    echo $$ >cgroup.procs && rmdir little && exit $status",
)
.expecting(&[Report]);

/// As on a Raspberry Pi 2: what needs no interrupt controller of the kernel's, and why wsvm's guests do not run.
const NO_GIC: Test = Test::of(
    "where the GIC has nothing for guests, VMs of processes that emulate one run all the same",
    "rmmod worldswitch && insmod /lib/worldswitch/worldswitch.ko check_vmids=1 no_gic=1 || exit 1
    wsvm run --kernel /guests/first_light.bin --mem 64M </dev/null 2>&1 | grep \"^wsvm: .*interrupt controller\" >/dev/null &&
        kvm-conformance 'user irq' 'live memory' registers </dev/null
    status=$?
    rmmod worldswitch && insmod /lib/worldswitch/worldswitch.ko check_vmids=1 && bare first_light >/dev/null || exit 1
    exit $status",
)
.expecting(&[Report]);

/// Of these, what the shim asks of the kernel: tracepoints and debugfs, eventfds, MMU notifiers, PFN maps.
const OTHER_KERNEL: &[Test] = &[
    LOADED,
    LINUX_GUEST,
    HYP_ABI,
    Test::of("conformance", "kvm-conformance observed irqfd 'live memory' backings </dev/null").expecting(&[Report]),
    RELOAD,
    QUOTA,
    QUOTA_CALLS,
];

/// Of these, loads and stores of all kinds, and of which the instruction is read.
const ABORTS: Test =
    Test::of("conformance", "kvm-conformance aborts 'observed: instructions are read' </dev/null").expecting(&[Report]);

/// What an Oops might do between two entries into a guest, where the physical timer traps to Hyp mode.
const SHORT_EXIT_TRAPS: Test = Test::of(
    "a trap of the kernel's own in the midst of a short exit gives all back, and the instruction runs again",
    "cd /sys/module/worldswitch/parameters
    echo 1 >short_exit_traps || exit 1
    host-witness 0,1 sh -c 'for answers in N Y; do
        echo $answers >hyp_answers && bare patterns && bare sgi && bare timer_interrupt || exit 1
    done >/tmp/guests'
    status=$?
    echo 0 >short_exit_traps
    echo Y >hyp_answers
    grep '^not ok' /tmp/guests
    dmesg | grep 'short exit:' && exit 1
    [ $(cat short_exit_traps) -gt 1000 ] || { echo \"not ok traps: $(cat short_exit_traps)\"; exit 1; }
    exit $status",
)
.expecting(&[Report]);

/// A machine is stopped in the midst, all of its state read by KVM's calls and written to a file, and a new process goes on with it.
const SAVED_LINUX: Test = Test::of(
    "a Linux guest of two CPUs that is saved at work goes on in another process",
    "cd /tmp && rm -f first second machine
    guest -c 'want=$(sha256sum /bin/busybox)
        (while [ ! -e /tmp/over ]; do [ \"$(sha256sum /bin/busybox)\" = \"$want\" ] || echo a sum is wrong; done; echo sums are done) &
        for i in $(seq 30); do echo tick $i; sleep 0.2; done; touch /tmp/over; wait; cat /proc/interrupts
        ' --cpus 2 --mem 128M --save /tmp/machine >first &
    guest=$!
    until grep -qs 'tick 5' first; do
        kill -0 $guest || exit 1
        sleep 0.1
    done
    kill -USR1 $(pidof wsvm)
    wait $guest
    # Its command has not ended, which `guest` does not like.
    [ $? = 125 ] || exit 1
    wsvm resume machine --serial second </dev/null || exit 1
    rm machine
    cat first second | tr -d '\\r' | grep -e tick -e sum | sort -u -k1,1 -k2,2n
    seq 30 | sed 's/^/tick /' >want
    cat first second | tr -d '\\r' | grep '^tick' | cmp - want",
)
.expecting(&[Says("tick 30"), Says("sums are done"), Lacks("wrong")]);

const SAVED_BARE: Test = Test::of(
    "a guest that looks at all of its registers notices nothing of being saved again and again",
    "cd /tmp && rm -f report machine
    save_soon() {
        sleep 1
        kill -USR1 $(pidof wsvm)
    }
    save_soon &
    wsvm run --kernel /guests/patterns.bin --mem 64M --append 'rounds=10 moves=1' --save machine </dev/null >report || exit 1
    for again in 1 2 3; do
        mv machine before
        save_soon &
        sleep 0.2
        wsvm resume before --save machine </dev/null >>report || exit 1
        [ -e machine ] || break
    done
    [ ! -e machine ] || wsvm resume machine </dev/null >>report || exit 1
    wait # for the last signal, which is not to hit another machine
    rm -f machine before
    echo saved $again times
    tr -d '\\r' <report",
)
.expecting(&[Report]);

/// Early: the host's memory is in whole pieces.
const RESTARTS: Test = Test::of(
    "a guest restarts with its memory as new, which wsvm may take from the host's pool of huge pages",
    "restarts() {
        wsvm run --kernel /guests/restart.bin --mem 64M $1 </dev/null >/tmp/restarts 2>&1 &
        until [ $(grep -c begun /tmp/restarts) -ge 3 ]; do
            kill -0 $! || exit 1
            sleep 0.1
        done
        # As it restarts, all are left for a moment.
        for look in 1 2 3 4 5; do
            left=$(awk '/HugePages_Free/ { left += $2 } /HugePages_Rsvd/ { left -= $2 } END { print left \" left\" }' /proc/meminfo)
            [ \"$left\" = '40 left' ] || break
        done
        echo $left
        kill $!
        wait $!
        [ $? = 143 ] || exit 1
        grep -v begun /tmp/restarts
    }
    pool=/proc/sys/vm/nr_hugepages
    restarts
    wsvm run --kernel /guests/restart.bin --mem 64M --huge-pages </dev/null 2>&1 && exit 1
    echo 40 >$pool
    restarts --huge-pages
    wsvm run --kernel /guests/restart.bin --mem 65M --huge-pages </dev/null 2>&1 && exit 1
    echo 0 >$pool",
)
.expecting(&[Says("0 left"), Says("8 left"), Says("0 of the host's 0 are to be had: as root, echo 32 >/proc/sys/vm/nr_hugepages"), Says("65M"), Lines(4)]);

const NOT_SAVED: Test = Test::of(
    "a guest that cannot be saved, for there is no space, goes on",
    "cd /tmp && rm -f report errors && mkdir -p full && mount -t tmpfs -o size=8k full full || exit 1
    wsvm run --kernel /guests/patterns.bin --mem 64M --append rounds=3 --save full/machine </dev/null >report 2>errors &
    until [ -s report ]; do sleep 0.1; done
    for again in 1 2; do
        kill -USR1 $! || exit 1
        until [ $(grep -c 'goes on' errors) = $again ]; do
            kill -0 $! || exit 1
            sleep 0.1
        done
    done
    wait $! || exit 1
    cat errors
    find full -type f
    umount full
    tr -d '\\r' <report",
)
.expecting(&[Says("full/machine: No space left"), Lacks("full/machine\n"), Report]);

const DEFAULT_HOST: &[Test] = &[
    LOADED,
    CHECK_VMIDS,
    RESTARTS,
    SAVED_LINUX,
    SAVED_BARE,
    NOT_SAVED,
    Test::of("loading it twice is refused", "insmod /lib/worldswitch/worldswitch.ko")
        .failing(EEXIST)
        .expecting(&[Says("File exists")]),
    LINUX_GUEST,
    Test::of(
        "a guest sees the CPU, the timer and the interrupt controller of KVM",
        "guest -c 'cat /proc/cpuinfo /proc/interrupts; dmesg'",
    )
    .expecting(&[Says("ARMv7"), Says("arch_timer"), Says("started in SVC mode"), Lacks("WARNING:"), Lacks("Oops")]),
    Test::of(
        "loading inside a guest is refused, and the guest lives",
        "guest -c 'insmod /lib/worldswitch/worldswitch.ko; echo status $?; dmesg | tail'",
    )
    .expecting(&[Says("No such device"), Says("status 19")]),
    Test::of(
        "a guest with four CPUs on a host with two has them all",
        "guest -c 'grep -c ^processor /proc/cpuinfo' --cpus 4",
    )
    .expecting(&[Is("4")]),
    HYP_ABI,
    SWAP,
    SHORT_EXIT_TRAPS,
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
        "rmmod worldswitch && insmod /lib/worldswitch/worldswitch.ko check_vmids=1 no_vfp=1 || exit 1
        host-witness 0,1 sh -c 'bare vfp_use --append vfp=0 >/tmp/guest'
        status=$?
        grep '^not ok' /tmp/guest
        [ $(cat /sys/module/worldswitch/parameters/vfp_switches) = 0 ] || status=1
        rmmod worldswitch && insmod /lib/worldswitch/worldswitch.ko check_vmids=1 && bare vfp_use >/dev/null || exit 1
        exit $status",
    )
    .expecting(&[Report]),
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
        "a killed wsvm leaves nothing behind",
        "wsvm run --kernel /boot/vmlinuz --append console=ttyS0 </dev/null >/dev/null &
        sleep 3
        kill -9 $! || exit 1
        wait $!
        sleep 1
        rmmod worldswitch || exit 1
        insmod /lib/worldswitch/worldswitch.ko check_vmids=1",
    ),
    Test::of(
        "wsvm says in one line that /dev/kvm is missing",
        "rmmod worldswitch
        wsvm run --kernel /guests/first_light.bin </dev/null 2>&1
        status=$?
        insmod /lib/worldswitch/worldswitch.ko check_vmids=1
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
        "wsvm says in one line that a machine could not be saved there",
        "wsvm run --kernel /guests/first_light.bin --save /nonexistent/machine </dev/null 2>&1",
    )
    .failing(1)
    .expecting(&[Says("/nonexistent/machine"), Lines(1)]),
    Test::of(
        "wsvm says in one line that a file without an end is no device tree",
        "wsvm run --kernel /guests/first_light.bin --dtb /dev/zero </dev/null 2>&1",
    )
    .failing(1)
    .expecting(&[Says("/dev/zero"), Lines(1)]),
    Test::of(
        "wsvm says in one line that so much memory cannot be",
        "wsvm run --kernel /guests/first_light.bin --mem 8G </dev/null 2>&1",
    )
    .failing(1)
    .expecting(&[Lines(1)]),
    ROLL_OVERS,
    CONFORMANCE,
    Test::of(
        "wild guests: a process of the host beside them keeps its registers and its clock",
        "host-witness 0 sh -c 'kvm-fuzz --seconds 8 --only guests >/tmp/fuzz'
        status=$?
        grep '^not ok' /tmp/fuzz
        exit $status",
    )
    .expecting(&[Report]),
    Test::of("hostile processes and wild guests", "kvm-fuzz --calls 50000").expecting(&[Report]),
    Test::of(
        "after hostile processes the module can be unloaded, and loaded again it runs a guest",
        "rmmod worldswitch && insmod /lib/worldswitch/worldswitch.ko && bare first_light",
    ),
];

/// What happens to a host under its guests, and to guests of several CPUs.
const LIFE: &[Test] = &[
    CHECK_VMIDS,
    Test::of(
        "a CPU goes and comes back under running guests, which run on and keep the module from being unloaded",
        concat!(
            busy_guests!(),
            "rmmod worldswitch 2>&1 && exit 1
            for round in 1 2 3 4 5; do
                for state in 0 1; do
                    echo $state >/sys/devices/system/cpu/cpu1/online || exit 1
                    sleep 0.5
                done
            done
            guests_are_well"
        ),
    )
    .expecting(&[Says("Resource temporarily unavailable"), Says("tick 10")]),
    Test::of(
        "hibernation's test, down to the core, leaves running guests as they are",
        concat!(
            busy_guests!(),
            "echo core >/sys/power/pm_test || exit 1
            echo disk >/sys/power/state || exit 1
            echo none >/sys/power/pm_test
            dmesg | grep -q 'debug: Waiting for' || exit 1
            guests_are_well"
        ),
    )
    .expecting(&[Is("tick 10")]),
    Test::of(
        "a hundred times loaded and unloaded, it leaves nothing behind",
        // Pages in use, but for caches: free ones that a CPU keeps at hand are free, though the kernel does not count them so.
        // The kernel keeps something for later uses, up to a limit; so the second fifty are looked at, of which each would leave
        // a page at least. What else is the module's must be gone: interrupts, mappings, timers, callbacks, files.
        "used() {
            echo 3 >/proc/sys/vm/drop_caches
            pages=$(awk '
                $1 == \"managed\" { used += $2 }
                $1 == \"nr_free_pages\" || $1 == \"count:\" { used -= $2 }
                END { print used }' /proc/zoneinfo)
            caches=$(awk '/^nr_(file_pages|slab_reclaimable) / { used += $2 } END { print used }' /proc/vmstat)
            echo $((pages - caches))
        }
        traces() {
            for list in interrupts iomem misc timer_list; do
                grep -ciE 'worldswitch|kvm|ws_' /proc/$list
            done
            grep -cE 'load_module|ioremap' /proc/vmallocinfo
        }
        fifty() {
            for round in $(seq 50); do
                insmod /lib/worldswitch/worldswitch.ko && rmmod worldswitch || exit 1
            done
        }
        rmmod worldswitch || exit 1
        fifty
        before=$(used)
        first=$(traces)
        fifty
        after=$(used)
        last=$(traces)
        insmod /lib/worldswitch/worldswitch.ko
        echo \"pages in use after fifty: $before, after a hundred: $after\"
        echo \"traces: $first, $last\"
        [ $((after - before)) -lt 50 ] && [ \"$first\" = \"$last\" ]",
    )
    .within(900),
    LOAD_WITHOUT_MEMORY,
    Test::of(
        "a parameter that can only be read is refused at load",
        "rmmod worldswitch || exit 1
        for parameter in vfp_switches vmid_roll_overs heap_blocks; do
            ! insmod /lib/worldswitch/worldswitch.ko $parameter=1 || exit 1
        done
        insmod /lib/worldswitch/worldswitch.ko",
    )
    .expecting(&[Says("Operation not permitted")]),
    Test::of(
        "a Linux guest with four CPUs turns each of them off and on again",
        "guest -c '
            cd /sys/devices/system/cpu
            for round in 1 2 3; do
                for cpu in 1 2 3; do echo 0 >cpu$cpu/online || exit 1; done
                cat online
                for cpu in 1 2 3; do echo 1 >cpu$cpu/online || exit 1; done
                cat online
            done' --cpus 4",
    )
    .expecting(&[Is("0\n0-3\n0\n0-3\n0\n0-3")]),
    Test::of(
        "a Linux guest with four CPUs survives stress, and every checksum is right",
        // Eight at a time make files of known contents, through pipes and processes, and sum them up; CPUs go and come meanwhile.
        "guest -c '
            one() {
                for round in 1 2; do
                    seq $1 20000 | tee /tmp/$1 | gzip -1 | gunzip | md5sum
                    dd if=/tmp/$1 bs=1000 2>/dev/null | sort -n | md5sum
                    (sh -c \"cat /tmp/$1\" | cat | md5sum) &
                    wait $!
                    rm /tmp/$1
                done | sort -u | wc -l
            }
            for job in 1 2 3 4 5 6 7 8; do one $job >/tmp/lines.$job & jobs=\"$jobs $!\"; done
            while kill -0 $! 2>/dev/null; do
                for state in 0 1; do echo $state >/sys/devices/system/cpu/cpu3/online || exit 1; done
            done
            for job in $jobs; do wait $job || exit 1; done
            cat /tmp/lines.*
            dmesg | grep -cE \"WARNING:|Oops|BUG|stall|lockup\"' --cpus 4 --mem 384M",
    )
    .failing(1) // grep's, which counts none
    .within(600)
    .expecting(&[Is("1\n1\n1\n1\n1\n1\n1\n1\n0")]),
];

/// Exceptions in Hyp mode, provoked: each costs a vCPU and says so in the kernel's log, and the host goes on.
const HYP_PANICS: &[Test] = &[
    Test::of(
        "each exception in Hyp mode ends the guest that it hits, with a status of its own",
        "for kind in 1 2 3 4 5 6 7; do
            echo $kind >/sys/module/worldswitch/parameters/provoke_hyp_panic || exit 1
            wsvm run --kernel /guests/first_light.bin --mem 64M </dev/null 2>&1
            [ $? = 3 ] || exit 1
        done",
    )
    .expecting(&[Lines(7), Says("the guest died")]),
    Test::of("the next guests run, floating point and all", "bare first_light && bare vfp && bare timer_interrupt"),
    Test::of(
        "the kernel log has each with its registers",
        "dmesg | sed -n 's/.*Hyp panic: CPU [0-9]*: \\(.*\\) at 0x[0-9a-f]*, HSR.*/\\1/p'
        dmesg | grep -c 'Hyp panic: r0 and on'",
    )
    .expecting(&[Is("undefined instruction\nHVC\nprefetch abort\ndata abort\ndata abort\ninterrupt\ninterrupt\n7")]),
    Test::of(
        "a process of the host beside them keeps its registers and its clock",
        "host-witness 0,1 sh -c '
            for kind in 1 2 3 4 5 6 7; do
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
    Test::of(
        "one that no guest has met is taken back",
        "for kind in 1 0; do echo $kind >/sys/module/worldswitch/parameters/provoke_hyp_panic || exit 1; done
        bare first_light",
    ),
];

/// How many of these, from the first on, tell one core's vectors from another's.
const EACH_VECTOR: usize = 3;

/// On the vectors that have firmware empty the branch predictor.
const HYP_PANICS_BY_FIRMWARE: &[Test] = &[
    Test::of(
        "the module is loaded anew to go by way of firmware",
        "rmmod worldswitch && insmod /lib/worldswitch/worldswitch.ko firmware_hardening=1",
    ),
    HYP_PANICS[0],
    HYP_PANICS[1],
    HYP_PANICS[2],
];

/// A board that resets starts again, instead of ending QEMU.
const REBOOTS: &[&str] = &["-action", "reboot=reset"];

/// A hibernation to a disk and back: the board resets in between, so that what was in Hyp mode is lost.
///
/// Debian's kernel needs help to come back on such a board, with or without the module: the restored image is written over kernel
/// text, which must be writable (rodata=off), and pages of highmem are exchanged with that of the stack that is in use, so there must be
/// none (640 MiB).
const HIBERNATION: &[Test] = &[Test::of(
    "guests run on after a hibernation to disk",
    concat!(
        "mkswap /dev/vda >/dev/null && swapon /dev/vda || exit 1
        echo 1 >/sys/module/worldswitch/parameters/check_vmids
        ",
        busy_guests!(),
        "echo reboot >/sys/power/disk
        echo disk >/sys/power/state || exit 1
        # The image knows nothing of how it was written: this is the second kernel's work.
        dmesg | grep -q 'hibernation: hibernation exit' || exit 1
        dmesg | grep -q 'Image saving' && exit 1
        guests_are_well && bare first_light >/dev/null && rmmod worldswitch && insmod /lib/worldswitch/worldswitch.ko"
    ),
)
.within(600)
.expecting(&[Is("tick 10")])];

/// What this kernel was started with, as far as the next one needs it: /tmp/again.cpio.
macro_rules! again {
    () => {
        "cd / && {
            find init bin etc guests lib ! -name kvm-conformance ! -name kvm-fuzz
            find dev dev/console dev/null proc root run sbin sys tmp usr -maxdepth 0
        } | cpio -o -H newc >/tmp/again.cpio 2>/dev/null
        "
    };
}

/// A reboot, and then another kernel in place of the one that runs, both under running guests. The host's script begins anew each time:
/// the disk's first byte says how often it did.
const KEXEC: &[Test] = &[Test::of(
    "a kernel started by reboot or kexec under running guests has Hyp mode, and the module runs guests again",
    concat!(
        "stage=$(head -c 1 /dev/vda | tr -d '\\0')
        echo \"stage $stage\"
        dmesg | grep 'started in HYP mode'
        bare first_light >/dev/null || exit 1
        [ \"$stage\" != 2 ] || exit 0
        ",
        busy_guests!(),
        "[ \"$stage\" = 1 ] || {
            printf 1 >/dev/vda
            sync
            busybox reboot -f
            exit 1
        }
        printf 2 >/dev/vda
        sync
        ",
        again!(),
        "kexec-again /boot/vmlinuz /tmp/again.cpio
        exit 1"
    ),
)
.within(600)
.expecting(&[Says("stage 1"), Says("stage 2")])];

/// A panic under running guests. Nobody gives Hyp mode back before it: the crash kernel is started by a call of the stub's that our
/// vectors answer. It has one CPU, and the host's script begins anew in it.
const CRASH: &[Test] = &[Test::of(
    "a crash kernel started by a panic under running guests has Hyp mode, and the module runs guests again",
    concat!(
        "dmesg | grep -q 'All CPU(s) started in HYP mode' || exit 1
        bare first_light >/dev/null || exit 1
        if grep -qw maxcpus=1 /proc/cmdline; then
            echo \"the crash kernel ran a guest on CPUs $(cat /sys/devices/system/cpu/online)\"
            exit 0
        fi
        ",
        again!(),
        "kexec-again --crash /boot/vmlinuz /tmp/again.cpio || exit 1
        rm /tmp/again.cpio
        ",
        busy_guests!(),
        "taskset 1 sh -c 'echo c >/proc/sysrq-trigger'
        exit 1"
    ),
)
.within(600)
.expecting(&[Says("the crash kernel ran a guest on CPUs 0\n")])];

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
