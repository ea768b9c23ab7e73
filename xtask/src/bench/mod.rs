// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask bench`: what each operation of a virtual machine costs, in instructions.
//!
//! Hosts of one and of two CPUs boot under QEMU with `-icount shift=0,sleep=off`: each instruction takes one
//! nanosecond of virtual time, and while nothing runs the clock jumps to the next timer. Two CPUs take turns; the time that
//! passes is the sum of both's instructions. With the clock's start and all random numbers fixed too, a run repeats itself to
//! the instruction. Bare-metal guests (`guests/src/bin/bench_*.rs`) time their loops by the generic timer's counter, which goes
//! on while the hypervisor, the host's kernel and wsvm work for them. [`samples`] turns times into instructions, [`rows`] is
//! the table, [`report`] shows it and compares it with the baseline. What of it is Hyp mode's part comes from QEMU's log
//! ([`trace`]). [`emulated`] compares with a host without KVM.

mod emulated;
mod report;
mod rows;
mod samples;
mod trace;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::board::Board;
use crate::build;
use crate::host::{self, Host, HostOptions, Task, Tokens};
use crate::layout::Layout;
use crate::machine::Watch;
use crate::setup::kernel::Choice;
use crate::test::Tally;
use report::{Measured, Report};
use rows::{ROWS, RUNS, Run, Runs};
use samples::Samples;
use trace::{Image, Trips};

/// Names of guests that are benchmarks begin so; the others are tests.
pub const GUESTS: &str = "bench_";

/// `cargo xtask bench`.
#[derive(Args, Debug)]
pub struct BenchCommand {
    /// Makes what this run measures the baseline (xtask/bench-baseline.json)
    #[arg(long)]
    pub accept: bool,
    /// Leaves out the Linux guest that boots by wsvm and by Debian's qemu-system-arm without KVM: some minutes, and 37 MB to fetch the first time
    #[arg(long)]
    pub no_tcg: bool,
    /// Debian's kernel for the host
    #[arg(long, value_name = "SUITE[/FLAVOUR]", default_value_t)]
    pub kernel: Choice,
}

/// QEMU's arguments that make a run repeat itself.
const REPEATABLE: [&str; 6] = ["-icount", "shift=0,sleep=off", "-seed", "1", "-rtc", "base=2026-01-01,clock=vm"];

/// A host that measures.
struct Measuring {
    cpus: u32,
    mem: &'static str,
    /// What it does. Before each guest it says the run's name.
    script: &'static str,
}

const HOSTS: [Measuring; 3] = [
    Measuring {
        cpus: 1,
        mem: MEM,
        script: "\
shortcuts=/sys/module/worldswitch/parameters/hyp_answers
poll=/sys/module/worldswitch/parameters/halt_poll_ns
rest=/sys/module/worldswitch/parameters/halt_rest_ns
huge=/sys/kernel/mm/transparent_hugepage/enabled
measure() {
    echo \"run $1\"
    wsvm run --kernel /guests/$2.bin --mem 256M --cpus $3 $4 </dev/null || exit 1
}
polls=$(cat $poll)
echo 0 >$poll
if [ -e $shortcuts ]; then
    measure shortcuts bench_operations 1
    echo 0 >$shortcuts
fi
rests=$(cat $rest)
echo 0 >$rest
measure kernel bench_operations 1
[ ! -e $shortcuts ] || echo 1 >$shortcuts
echo $polls >$poll
measure polling bench_operations 1
echo $rests >$rest
measure one-cpu-polling bench_pingpong 2
echo 0 >$poll
measure one-cpu bench_pingpong 2
[ ! -e $huge ] || echo never >$huge
measure small-pages bench_memory 1
[ ! -e $huge ] || { echo always >$huge && measure huge-pages bench_memory 1; }
pool=/proc/sys/vm/nr_hugepages
if [ -e $pool ]; then
    echo 128 >$pool
    [ $(cat $pool) = 128 ] || exit 1
    measure reserved-huge-pages bench_memory 1 --huge-pages
fi
",
    },
    // The second CPU comes when the kernel is up: where both are to meet while it boots (stop_machine) they spin, and QEMU gives each
    // a turn of milliseconds to do so. The guests start their second vCPU when both have had the time to be put in their places.
    Measuring {
        cpus: 2,
        mem: MEM,
        script: "\
echo 1 >/sys/devices/system/cpu/cpu1/online || exit 1
measure() {
    echo \"run $1\"
    wsvm run --kernel /guests/$2.bin --mem 64M --cpus 2 </dev/null &
    monitor=$!
    until grep -qs vcpu1 /proc/$monitor/task/*/comm; do sleep 0.01; done
    for task in /proc/$monitor/task/*; do
        case $(cat $task/comm) in
            vcpu0) taskset -p 1 ${task##*/} >/dev/null ;;
            vcpu1) taskset -p 2 ${task##*/} >/dev/null ;;
        esac
    done
    wait $monitor || exit 1
}
poll=/sys/module/worldswitch/parameters/halt_poll_ns
polls=$(cat $poll)
echo 0 >$poll
measure spinning bench_sgi
measure two-cpus bench_pingpong
rest=/sys/module/worldswitch/parameters/halt_rest_ns
rests=$(cat $rest)
echo 0 >$rest
measure two-cpus-asleep bench_pingpong
echo $polls >$poll
measure two-cpus-polling bench_pingpong
echo $rests >$rest
",
    },
    // A 32-bit kernel maps 760 MiB at most for good; each page of what it has above is mapped whenever it is cleared or cleaned.
    Measuring {
        cpus: 1,
        mem: "640M",
        script: "\
huge=/sys/kernel/mm/transparent_hugepage/enabled
[ -e $huge ] || exit 0
echo always >$huge
echo run huge-pages-in-lowmem
wsvm run --kernel /guests/bench_memory.bin --mem 256M </dev/null
",
    },
];

/// The memory of a host that is not about memory.
const MEM: &str = "1G";

/// What the host does for [`follow`].
const FOLLOWED: &str = "\
shortcuts=/sys/module/worldswitch/parameters/hyp_answers
wsvm run --kernel /guests/bench_trips.bin --mem 64M </dev/null || exit 1
if [ -e $shortcuts ]; then
    echo 0 >$shortcuts
    wsvm run --kernel /guests/bench_trips.bin --mem 64M </dev/null || exit 1
fi
";

/// A host that repeats itself.
fn prepare(layout: &Layout, kernel: &Choice) -> Result<Host> {
    let options = HostOptions {
        with: Vec::new(),
        kernel: kernel.clone(),
        board: Board::Virt,
        cpu: None,
        smp: None,
        mem: MEM.to_owned(),
        disk: None,
        append: "maxcpus=1".to_owned(),
        qemu_arg: REPEATABLE.map(str::to_owned).to_vec(),
        qemu: None,
        timeout: 900,
    };
    Host::prepare(layout, &options, true)
}

/// Runs the guests that take times.
fn time(layout: &Layout, host: &mut Host) -> Result<Runs> {
    let mut runs = Runs::default();
    for Measuring { cpus, mem, script } in HOSTS {
        crate::progress(&format!("measuring on a host of {cpus} CPU and {mem} (some twenty seconds)"));
        host.options.smp = Some(cpus);
        host.options.mem = mem.to_owned();
        runs.samples.extend(parse(&execute(layout, host, script, &mut |_| ControlFlow::Continue(()))?)?);
    }
    host.options.mem = MEM.to_owned();
    Ok(runs)
}

/// Tests that every row that is timed has a figure, and that it is more than the guest's own instructions. What it should be is for
/// the baseline to say.
pub fn test(layout: &Layout, tally: &mut Tally) {
    let timed = prepare(layout, &Choice::default()).and_then(|mut host| time(layout, &mut host));
    let runs = match timed {
        Ok(runs) => runs,
        Err(error) => return tally.not_ok(TEST, &format!("{error:#}")),
    };
    for row in ROWS.iter().filter(|row| row.is_timed()) {
        tally.check(&format!("{TEST}: {}: {}", row.id, row.operation), || {
            let (figure, guest) = row.figure(&runs)?.context("not measured")?;
            let least = guest.unwrap_or_default();
            if figure <= f64::from(least) {
                bail!("{figure} instructions, of which the guest's loop has {least}");
            }
            Ok(())
        });
    }
}

/// The name of [`test`] among the boots.
pub const TEST: &str = "bench";

/// Measures, prints the table and writes the JSON.
pub fn run(layout: &Layout, command: &BenchCommand) -> Result<u8> {
    let mut host = prepare(layout, &command.kernel)?;
    let mut runs = time(layout, &mut host)?;
    let to_the_shell = if command.no_tcg { None } else { Some(emulated::measure(layout, &mut host)?) };
    crate::progress("following a guest through Hyp mode (a minute)");
    runs.trips = Some(follow(layout, &mut host)?);
    let mut report = Report {
        kernel: command.kernel.to_string(),
        release: host.kernel.release.clone(),
        qemu: host.qemu_version()?,
        rows: Vec::new(),
        notes: Vec::new(),
        to_the_shell,
    };
    for row in ROWS {
        match row.figure(&runs)? {
            Some((figure, guest)) => report.rows.push(Measured {
                id: row.id,
                operation: row.operation,
                instructions: figure.round() as i64,
                guest,
                original: row.original,
                target: row.target,
                change: None,
            }),
            None => {
                report.notes.push(format!("{}: not measured, this host does not have what it needs", row.operation))
            }
        }
    }
    let path = layout.root.join("xtask/bench-baseline.json");
    let mut baselines = report::read_baselines(&path)?;
    if let Some(baseline) = baselines.get(&report.kernel) {
        report.compare(baseline);
    }
    let json = layout.state("bench.json");
    report::write_json(&json, &report)?;
    print!("{}", report.table());
    crate::progress(&format!("as JSON: {}", json.display()));
    if command.accept {
        baselines.insert(report.kernel.clone(), report.baseline());
        report::write_json(&path, &baselines)?;
        crate::progress(&format!("this is the baseline now: {}", path.display()));
    }
    Ok(0)
}

/// Has the host make trips through Hyp mode, through the kernel and not, and counts their instructions.
fn follow(layout: &Layout, host: &mut Host) -> Result<Trips> {
    let log = layout.state("logs/bench-hyp.log");
    let addresses = format!("{:#x}+{:#x}", hyp_abi::layout::IMAGE_BASE, hyp_abi::layout::IMAGE_MAX);
    let log_name = log.to_string_lossy().into_owned();
    // In real time: counting instructions would cut the blocks that the log tells of.
    host.options.qemu_arg =
        ["-d", "in_asm,exec,nochain", "-dfilter", &addresses, "-D", &log_name].map(str::to_owned).to_vec();
    host.options.smp = Some(1);
    execute(layout, host, FOLLOWED, &mut |_| ControlFlow::Continue(()))?;
    let linked = fs::read(layout.state("hyp.elf")).context("the linked Hyp image cannot be read")?;
    let flat = fs::read(build::hyp_image(layout)).context("the Hyp image cannot be read")?;
    let file = File::open(&log).with_context(|| format!("{}: cannot be read", log.display()))?;
    let trips = Trips::read(BufReader::new(file), &Image::new(flat, &linked)?)?;
    fs::remove_file(&log)?; // many megabytes
    Ok(trips)
}

/// Runs `script` in the host and returns what it printed.
fn execute(layout: &Layout, host: &Host, script: &str, watch: Watch) -> Result<String> {
    let output = Gathered::default();
    // The same in each run: they are part of what the host does.
    let tokens = Tokens { host: "host".to_owned(), guest: "guest".to_owned() };
    let channel = Box::new(output.clone());
    let ended = host.boot(layout, "bench", &tokens, Task::Script(script), channel, watch)?;
    let text = output.text();
    match host::status(&ended)? {
        0 => Ok(text),
        status => bail!("the host's script ended with status {status}:\n{text}"),
    }
}

/// Cuts what the host printed into runs.
fn parse(text: &str) -> Result<BTreeMap<Run, Samples>> {
    let mut runs = BTreeMap::new();
    for part in text.split("run ").skip(1) {
        let (name, output) = part.split_once('\n').unwrap_or((part, ""));
        let run = RUNS.iter().find(|(known, _)| *known == name.trim());
        let (_, run) = run.with_context(|| format!("the host says that it ran '{}'", name.trim()))?;
        runs.insert(*run, Samples::parse(output)?);
    }
    Ok(runs)
}

/// Output that is kept.
#[derive(Clone, Default)]
struct Gathered(Arc<Mutex<Vec<u8>>>);

impl Gathered {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Gathered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_is_read_by_its_name() {
        let guest = "clock 62500000\r\nsample a 1 1 0\r\nsample a 2 2 0\r\nend\r\n";
        let runs = parse(&format!("run kernel\n{guest}run huge-pages\n{guest}")).expect("parsed");
        assert_eq!(runs.into_keys().collect::<Vec<_>>(), [rows::Run::Kernel, rows::Run::HugePages]);
        assert!(parse(&format!("run other\n{guest}")).is_err());
        assert!(parse("run kernel\nsample a 1 1 0\n").is_err());
    }
}
