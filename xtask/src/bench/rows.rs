// SPDX-License-Identifier: GPL-2.0-only
//! The rows of the table: what is measured, in which run of a guest, and what KVM/ARM of Linux 5.4 needed for it.
//!
//! The originals were measured in the same way on a minimal kernel, with kvmtool as the monitor; `docs/benchmarks.md` says more.

use std::collections::BTreeMap;

use anyhow::Result;

use super::samples::Samples;
use super::trace::{Count, Trips};

/// A run of a benchmark guest in the host. Where nothing else is said, no vCPU polls before it sleeps (`halt_poll_ns` is 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Run {
    /// Single operations; what needs nothing from the host kernel is answered in Hyp mode.
    Shortcuts,
    /// Single operations, all answered by the host kernel, where the thread sleeps in each wait (`halt_rest_ns` is 0).
    Kernel,
    /// First accesses to memory, the host without huge pages.
    SmallPages,
    /// First accesses to memory, the host with huge pages.
    HugePages,
    /// The same, all of the host's memory being mapped by its kernel at all times.
    HugePagesInLowmem,
    /// The same, of huge pages that the host has reserved.
    ReservedHugePages,
    /// Single operations, with polling as it is by default, and no rest in the guest.
    Polling,
    /// Two vCPUs on one CPU.
    OneCpu,
    /// The same with polling as it is by default.
    OneCpuPolling,
    /// Two vCPUs on a CPU each.
    TwoCpus,
    /// The same, and the threads sleep in each wait.
    TwoCpusAsleep,
    /// The same, with polling as it is by default.
    TwoCpusPolling,
    /// Two vCPUs on a CPU each, one of which spins.
    Spinning,
}

/// Operations as the module does them by default: the original answers nothing in Hyp mode.
const OPERATIONS: &[Run] = &[Run::Shortcuts, Run::Kernel];

/// All runs, by the name that the host's script prints before each.
pub const RUNS: [(&str, Run); 13] = [
    ("shortcuts", Run::Shortcuts),
    ("kernel", Run::Kernel),
    ("small-pages", Run::SmallPages),
    ("huge-pages", Run::HugePages),
    ("reserved-huge-pages", Run::ReservedHugePages),
    ("huge-pages-in-lowmem", Run::HugePagesInLowmem),
    ("polling", Run::Polling),
    ("one-cpu", Run::OneCpu),
    ("one-cpu-polling", Run::OneCpuPolling),
    ("two-cpus", Run::TwoCpus),
    ("two-cpus-asleep", Run::TwoCpusAsleep),
    ("two-cpus-polling", Run::TwoCpusPolling),
    ("spinning", Run::Spinning),
];

/// What was measured.
#[derive(Default)]
pub struct Runs {
    /// The runs that there were.
    pub samples: BTreeMap<Run, Samples>,
    /// What was seen of Hyp mode, if anybody looked.
    pub trips: Option<Trips>,
}

/// How a row's figure comes out of the samples.
enum Figure {
    /// One turn of a loop.
    Turn(Run, &'static str),
    /// One turn of a loop of the operations, as the module does by default.
    Operation(&'static str),
    /// How much more one turn of the first loop costs than one of the second.
    Above(Run, &'static str, &'static str),
    /// The way into a wait and out of it, in the first of these runs that was made.
    Wait(&'static [Run]),
    /// How late the wake-up from a wait is, in the first of these runs that was made.
    Late(&'static [Run]),
    /// Hyp mode's part of a trip.
    Hyp(fn(&Trips) -> Option<Count>, fn(Count) -> u32),
}

/// A row.
pub struct Row {
    /// Its name in files.
    pub id: &'static str,
    /// What is measured.
    pub operation: &'static str,
    /// What the original needed.
    pub original: Option<u32>,
    /// What is to be reached at most.
    pub target: Option<u32>,
    figure: Figure,
}

const fn row(
    id: &'static str,
    operation: &'static str,
    original: Option<u32>,
    target: Option<u32>,
    figure: Figure,
) -> Row {
    Row { id, operation, original, target, figure }
}

/// How many turns a wait of the search has: `SEARCH_TURNS` in the guest.
const SEARCH_TURNS: u32 = 4;
/// How many ticks ahead the timer is set where WFI is to rest: `REST_TICKS` in the guest.
const REST_TICKS: u32 = 6250;

/// The table.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    row("hypercall", "hypercall (PSCI_VERSION), answered in Hyp mode", Some(988), Some(120), Figure::Turn(Run::Shortcuts, "hypercall")),
    row("hypercall_kernel", "hypercall (PSCI_VERSION), answered by the host kernel", Some(988), Some(560), Figure::Turn(Run::Kernel, "hypercall")),
    row("vfp", "one VFP instruction after such a hypercall, more", Some(76), Some(110), Figure::Above(Run::Kernel, "hypercall_vfp", "hypercall")),
    row("actlr", "ACTLR read (trapped register)", Some(1101), Some(120), Figure::Operation("actlr")),
    row("cntp_ctl", "CNTP_CTL read (emulated timer)", Some(1776), Some(250), Figure::Operation("cntp_ctl")),
    row("gicd_iidr", "GICD_IIDR read (MMIO answered in the kernel)", Some(1424), Some(500), Figure::Operation("gicd_iidr")),
    row("gicd_isenabler_read", "GICD_ISENABLER read", Some(1424), Some(500), Figure::Operation("gicd_isenabler_read")),
    row("gicd_isenabler_write", "GICD_ISENABLER write", Some(1424), Some(500), Figure::Operation("gicd_isenabler_write")),
    row("uart", "UART register read (MMIO answered by the process)", Some(2711), Some(1900), Figure::Operation("uart")),
    row("vfp_process", "one VFP instruction after a UART read, more", None, None, Figure::Above(Run::Kernel, "uart_vfp", "uart")),
    row("unassigned", "unassigned MMIO read", Some(2484), None, Figure::Operation("unassigned")),
    row("sgi_self", "SGI to itself, with acknowledge and end", Some(2159), Some(900), Figure::Operation("sgi_self")),
    row("timer_interrupt", "virtual timer interrupt, guest spinning, above native", Some(1889), Some(1200), Figure::Operation("timer_interrupt")),
    row("wait", "WFI until the virtual timer, spent in the guest", Some(9635), Some(9635), Figure::Wait(OPERATIONS)),
    row("wait_late", "of that, from the timer's time on", Some(5500), None, Figure::Late(OPERATIONS)),
    row("wait_asleep", "the same, the thread asleep", Some(9635), Some(9635), Figure::Wait(&[Run::Kernel])),
    row("wait_asleep_late", "of that, from the timer's time on", Some(5500), None, Figure::Late(&[Run::Kernel])),
    row("wait_late_polling", "the same, the thread polling", Some(1700), Some(1700), Figure::Late(&[Run::Polling])),
    row("sgi_other", "SGI to a vCPU spinning on another CPU", Some(3686), Some(2500), Figure::Turn(Run::Spinning, "sgi")),
    row("pingpong_two", "WFI ping-pong of two vCPUs on two CPUs, waits in the guests", Some(15655), Some(15655), Figure::Turn(Run::TwoCpus, "pingpong")),
    row("pingpong_two_asleep", "the same, both threads asleep", Some(15655), Some(15655), Figure::Turn(Run::TwoCpusAsleep, "pingpong")),
    row("pingpong_two_polling", "the same, both threads polling", Some(15655), Some(15655), Figure::Turn(Run::TwoCpusPolling, "pingpong")),
    row("pingpong_one", "WFI ping-pong on one CPU", Some(12553), Some(12553), Figure::Turn(Run::OneCpu, "pingpong")),
    row("pingpong_one_polling", "the same with polling", Some(12553), Some(12553), Figure::Turn(Run::OneCpuPolling, "pingpong")),
    row("fresh_read", "stage-2 fault, first read of a page", Some(3111), None, Figure::Turn(Run::SmallPages, "fresh_read")),
    row("fresh_write", "stage-2 fault, first write of a page", Some(4403), None, Figure::Turn(Run::SmallPages, "fresh_write")),
    row("fresh_4mib", "4 MiB of fresh pages written, a page, above native", Some(4403), None, Figure::Turn(Run::SmallPages, "fresh_4mib")),
    row("fresh_4mib_huge", "the same, the host with huge pages", Some(4403), Some(1500), Figure::Turn(Run::HugePages, "fresh_4mib")),
    row("fresh_4mib_huge_lowmem", "the same, the host with 640 MiB, none of it highmem", Some(4403), Some(1500), Figure::Turn(Run::HugePagesInLowmem, "fresh_4mib")),
    row("fresh_4mib_reserved", "the same, the host with huge pages reserved for it", Some(4403), Some(1500), Figure::Turn(Run::ReservedHugePages, "fresh_4mib")),
    row("hyp_part", "Hyp part of one exit to the host kernel and back", Some(582), Some(330), Figure::Hyp(Trips::through_the_kernel, |trip| trip.all)),
    row("hyp_part_cp15", "coprocessor moves in it", Some(130), None, Figure::Hyp(Trips::through_the_kernel, |trip| trip.coprocessor)),
    row("hyp_part_banked", "banked-register moves in it", Some(90), None, Figure::Hyp(Trips::through_the_kernel, |trip| trip.banked)),
    row("hyp_only", "Hyp part of a hypercall answered in Hyp mode", None, None, Figure::Hyp(Trips::in_hyp_mode, |trip| trip.all)),
];

impl Row {
    /// Whether a guest takes the time for it.
    pub fn is_timed(&self) -> bool {
        !matches!(self.figure, Figure::Hyp(..))
    }

    /// Its figure in instructions, and how many of them are the guest's own; `None` if the run that it needs was not made.
    pub fn figure(&self, runs: &Runs) -> Result<Option<(f64, Option<u32>)>> {
        let first = |of: &[Run]| of.iter().find_map(|run| runs.samples.get(run));
        let operations = || first(OPERATIONS);
        let turn = |samples: Option<&Samples>, key: &str| match samples {
            Some(samples) => Ok(Some((samples.turn(key)?, samples.own(key)))),
            None => Ok(None),
        };
        match self.figure {
            Figure::Turn(run, key) => turn(runs.samples.get(&run), key),
            Figure::Operation(key) => turn(operations(), key),
            Figure::Above(run, more, less) => {
                let Some(samples) = runs.samples.get(&run) else { return Ok(None) };
                Ok(Some((samples.turn(more)? - samples.turn(less)?, None)))
            }
            Figure::Wait(of) => {
                let Some(samples) = first(of) else { return Ok(None) };
                let late = samples.late("wait", REST_TICKS)?;
                Ok(Some((samples.way_in_and_out("wait_search", SEARCH_TURNS, late)?, samples.own("wait"))))
            }
            Figure::Late(of) => {
                let Some(samples) = first(of) else { return Ok(None) };
                Ok(Some((samples.late("wait", REST_TICKS)?, None)))
            }
            Figure::Hyp(trip, part) => {
                Ok(runs.trips.as_ref().and_then(trip).map(|count| (f64::from(part(count)), None)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        let ids: BTreeSet<_> = ROWS.iter().map(|row| row.id).collect();
        assert_eq!(ids.len(), ROWS.len());
    }

    #[test]
    fn a_row_without_its_run_has_no_figure_and_others_fall_back() {
        let text = "clock 62500000\nloop hypercall 8\nloop actlr 4\nsample hypercall 1 1 0\nsample hypercall 2 11 0\n\
                    sample actlr 1 1 0\nsample actlr 2 6 0\nend\n";
        let mut runs = Runs::default();
        runs.samples.insert(Run::Kernel, Samples::parse(text).expect("parsed"));
        let figure = |id| {
            let row = ROWS.iter().find(|row| row.id == id).expect("a row");
            row.figure(&runs)
        };
        assert_eq!(figure("hypercall").expect("no error"), None);
        assert_eq!(figure("hypercall_kernel").expect("no error"), Some((160.0, Some(8))));
        assert_eq!(figure("actlr").expect("no error"), Some((80.0, Some(4))));
        assert!(figure("uart").is_err());
        assert_eq!(figure("fresh_read").expect("no error"), None);
    }
}
