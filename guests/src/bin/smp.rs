// SPDX-License-Identifier: GPL-2.0-only
//! Several vCPUs: who they think they are, CPU_ON, CPU_OFF and AFFINITY_INFO between them, and SGIs from each to each.
//!
//! With one vCPU only, what it says of others is empty; the runner gives it eight, on hosts with fewer CPUs.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering};

use guests::test::Verdict;
use guests::{check, check_eq, gic, guest, psci, smp, sysreg};
use uapi::psci::{AFFINITY_OFF, AFFINITY_ON, ALREADY_ON, INVALID_PARAMETERS, SUCCESS};

guest!(
    all_but_the_first_are_off,
    each_starts_where_it_is_told_and_as_at_reset,
    each_is_what_its_mpidr_says,
    one_that_is_on_cannot_be_turned_on,
    strangers_cannot_be_turned_on,
    an_sgi_goes_from_each_to_each_and_to_nobody_else,
    an_sgi_to_all_others_reaches_all_others,
    an_sgi_reaches_one_that_spins,
    a_token_goes_round_all_of_them,
    each_turns_itself_off_and_is_started_again,
    the_last_one_that_is_off_does_not_hear,
);

/// A number that no other test uses, with that of the vCPU in its low bits.
fn argument(cpu: u32) -> u32 {
    0xabcd_0000 | starts_wanted(cpu) << 8 | cpu
}

fn starts_wanted(cpu: u32) -> u32 {
    smp::starts(cpu) + 1
}

fn others() -> core::ops::Range<u32> {
    1..smp::cpus()
}

fn state(cpu: u32) -> u32 {
    psci::affinity_info(smp::affinity(cpu)) as u32
}

/// Turns a vCPU on and waits for it; what it was given as its argument.
fn start(cpu: u32) -> Result<u32, guests::test::Failure> {
    let (argument, wanted) = (argument(cpu), starts_wanted(cpu));
    check_eq!("the answer to CPU_ON", smp::turn_on(cpu, argument), SUCCESS);
    check!(smp::wait_for(|| smp::starts(cpu) == wanted), "vCPU {cpu} did not start");
    Ok(argument)
}

fn all_but_the_first_are_off() -> Verdict {
    check_eq!("the first's state", state(0), AFFINITY_ON);
    for cpu in others() {
        check_eq!("another's state", state(cpu), AFFINITY_OFF);
    }
    check_eq!("a stranger's state", psci::affinity_info(smp::affinity(smp::cpus())), INVALID_PARAMETERS);
    Ok(())
}

fn each_starts_where_it_is_told_and_as_at_reset() -> Verdict {
    gic::enable();
    for cpu in others() {
        let argument = start(cpu)?;
        let entry = smp::entry(cpu);
        check_eq!("r0", entry.argument, argument);
        check_eq!("CPSR without its flags", entry.cpsr & 0x0fff_ffff, 0x1d3);
        check_eq!("SCTLR's M, C, I and V", entry.sctlr & 0x3005, 0);
        check_eq!("its state", state(cpu), AFFINITY_ON);
    }
    Ok(())
}

fn each_is_what_its_mpidr_says() -> Verdict {
    // The format is the host's, the rest the number of the vCPU, in clusters of four.
    let format = sysreg::mpidr::read() & 0xff00_0000;
    check_eq!("the multiprocessor format", format >> 31, 1);
    check_eq!("the first's MPIDR", sysreg::mpidr::read(), format);
    for cpu in others() {
        check_eq!("MPIDR", smp::entry(cpu).mpidr, format | smp::affinity(cpu));
        // Again, where it may have moved to another CPU of the host.
        check_eq!("MPIDR later", smp::call(cpu, |_| sysreg::mpidr::read(), 0).unwrap_or(0), smp::entry(cpu).mpidr);
    }
    Ok(())
}

fn one_that_is_on_cannot_be_turned_on() -> Verdict {
    check_eq!("turning on this one", smp::turn_on(0, 0), ALREADY_ON);
    for cpu in others() {
        let before = smp::starts(cpu);
        check_eq!("turning on one that is on", smp::turn_on(cpu, argument(cpu)), ALREADY_ON);
        // It works, and was not started anew.
        check_eq!("what it works out", smp::call(cpu, |number| number + 1, 41).unwrap_or(0), 42);
        check_eq!("how often it was started", smp::starts(cpu), before);
    }
    Ok(())
}

fn strangers_cannot_be_turned_on() -> Verdict {
    for stranger in [smp::affinity(smp::cpus()), 0x0000_0007, 0x0000_0200, 0x0001_0000, 0x00ff_ffff] {
        let answer = psci::call(uapi::psci::CPU_ON, [stranger, 0x8200_0000, 0])[0] as i32;
        check!(answer == INVALID_PARAMETERS, "turning on {stranger:#x} answers {answer}");
    }
    Ok(())
}

/// Sends SGI `number` to the targets from vCPU `sender`: both in one word.
fn send(word: u32) -> u32 {
    smp::send(word >> 8, word & 0xff);
    0
}

fn send_from(sender: u32, targets: u32, number: u32) -> Verdict {
    if sender == 0 {
        smp::send(targets, number);
    } else {
        check!(smp::call(sender, send, targets << 8 | number).is_some(), "vCPU {sender} does not answer");
    }
    Ok(())
}

/// What all vCPUs have got of SGI `number`, from anybody.
fn total(number: u32) -> u32 {
    smp::collect(0);
    let all = 0..smp::MAX_CPUS;
    all.clone().flat_map(|to| all.clone().map(move |from| smp::received(to, from, number))).sum()
}

fn an_sgi_goes_from_each_to_each_and_to_nobody_else() -> Verdict {
    let cpus = smp::cpus();
    let mut sent = [0; 15];
    (0..cpus).for_each(smp::forget_received);
    for from in 0..cpus {
        for to in 0..cpus {
            let number = (from * cpus + to) % 15;
            sent[number as usize] += 1;
            let wanted = smp::received(to, from, number) + 1;
            send_from(from, 1 << to, number)?;
            let came = smp::wait_for(|| {
                smp::collect(0);
                smp::received(to, from, number) >= wanted
            });
            check!(came, "SGI {number} from {from} did not come to {to}");
            check!(smp::received(to, from, number) == wanted, "SGI {number} from {from} came to {to} twice");
        }
    }
    for (number, sent) in (0..).zip(sent) {
        check_eq!("how many came", total(number), sent);
    }
    Ok(())
}

fn an_sgi_to_all_others_reaches_all_others() -> Verdict {
    let cpus = smp::cpus();
    for from in 0..cpus {
        (0..cpus).for_each(smp::forget_received);
        send_from(from, 1 << 8, 3)?; // GICD_SGIR.TargetListFilter, behind the list: all others
        check!(smp::wait_for(|| total(3) == cpus - 1), "{} of {} came from {from}", total(3), cpus - 1);
        for to in 0..cpus {
            check_eq!("how often it came to one", smp::received(to, from, 3), u32::from(to != from));
        }
    }
    Ok(())
}

static SPINNING: AtomicU32 = AtomicU32::new(0);

/// Work: says that it spins, and looks for SGI 5 from vCPU 0 without ever waiting for it.
fn spin(cpu: u32) -> u32 {
    SPINNING.store(cpu, Ordering::Release);
    let heard = smp::wait_for(|| {
        smp::collect(cpu);
        smp::received(cpu, 0, 5) > 0
    });
    heard.into()
}

fn an_sgi_reaches_one_that_spins() -> Verdict {
    for cpu in others() {
        smp::forget_received(cpu);
        smp::post(cpu, spin, cpu);
        check!(smp::wait_for(|| SPINNING.load(Ordering::Acquire) == cpu), "vCPU {cpu} did not begin");
        smp::send(1 << cpu, 5);
        check_eq!("whether it heard", smp::result(cpu).unwrap_or(0), 1);
    }
    Ok(())
}

static TOKEN: AtomicU32 = AtomicU32::new(0);
/// How often the token goes round.
const ROUNDS: u32 = 10;

/// Work: passes the token on whenever it is this vCPU's turn, ROUNDS times. `word`: how many there are, and which this is.
fn pass(word: u32) -> u32 {
    let (cpus, cpu) = (word >> 8, word & 0xff);
    for round in 0..ROUNDS {
        let turn = round * cpus + cpu;
        if !smp::wait_for(|| TOKEN.load(Ordering::Acquire) == turn) {
            return 0;
        }
        TOKEN.store(turn + 1, Ordering::Release);
    }
    1
}

fn a_token_goes_round_all_of_them() -> Verdict {
    let cpus = smp::cpus();
    TOKEN.store(0, Ordering::Release);
    others().for_each(|cpu| smp::post(cpu, pass, cpus << 8 | cpu));
    check_eq!("this one's end", pass(cpus << 8), 1);
    for cpu in others() {
        check_eq!("another's end", smp::result(cpu).unwrap_or(0), 1);
    }
    check_eq!("the token", TOKEN.load(Ordering::Acquire), ROUNDS * cpus);
    Ok(())
}

fn each_turns_itself_off_and_is_started_again() -> Verdict {
    for _ in 0..5 {
        for cpu in others() {
            smp::post(cpu, smp::turn_off, cpu);
            check!(smp::wait_for(|| state(cpu) == AFFINITY_OFF), "vCPU {cpu} stays on");
        }
        for cpu in others() {
            let argument = start(cpu)?;
            check_eq!("r0", smp::entry(cpu).argument, argument);
            check_eq!("SCTLR's M, C, I and V", smp::entry(cpu).sctlr & 0x3005, 0);
            check_eq!("MPIDR", smp::entry(cpu).mpidr & 0x00ff_ffff, smp::affinity(cpu));
        }
    }
    Ok(())
}

fn the_last_one_that_is_off_does_not_hear() -> Verdict {
    let Some(cpu) = others().last() else { return Ok(()) };
    smp::post(cpu, smp::turn_off, cpu);
    check!(smp::wait_for(|| state(cpu) == AFFINITY_OFF), "vCPU {cpu} stays on");
    let before = smp::starts(cpu);
    smp::send(1 << cpu, 6);
    for other in 1..cpu {
        check_eq!("what another works out", smp::call(other, |number| number * 2, 21).unwrap_or(0), 42);
    }
    check_eq!("its state after an SGI", state(cpu), AFFINITY_OFF);
    check_eq!("how often it was started", smp::starts(cpu), before);
    Ok(())
}
