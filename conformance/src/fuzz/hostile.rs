// SPDX-License-Identifier: GPL-2.0-only
//! A process that means harm: threads that make any calls on any descriptors, while their memory, their descriptors and the pages that they
//! share with the kernel change under them, and guests run what they find.
//!
//! What each thread does, call by call, follows from the run's seed and its number. What it meets does not: threads race on purpose,
//! and a place of the table of descriptors holds what the last one put there. So a process that brings a host down is tried again by
//! its number, and does much the same.
//!
//! A timer's signal ends each stay in a guest after some microseconds, and signals come at other times too. A process ends in one of
//! several ways, most of them in the middle of it all; a process that it forked may outlive it, with its descriptors.
//!
//! An emulated host spends nearly all of its time on memory: clearing pages, faults, flushes of TLBs, processes that begin and end. So
//! a process makes many calls, most values that a call reads or writes lie in memory that stays, and few processes have huge pages.

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use nix::errno::Errno;
use uapi::*;

use crate::arena::{Arena, PAGE};
use crate::arguments::{self, Argument, DESK, Maker, nowhere};
use crate::descriptors::{Descriptors, Kind, LIMIT};
use crate::grammar::{CALLS, Call, any_call, strange_number};
use crate::image::{self, GICC, GICD, RAM};
use crate::tally::Tally;
use crate::values::{Values, stream};

/// How a hostile process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It exits while its threads go on.
    Exit,
    /// When all threads are through; all descriptors are closed, in some order.
    Close,
    /// It becomes another program while its threads go on.
    Exec,
    /// Whoever watches kills it, at work.
    Killed,
}

/// A process.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Threads.
    pub threads: usize,
    /// What each does, unless it is to be killed.
    pub steps: u32,
    /// How it ends.
    pub ending: Ending,
    /// After how many milliseconds, if it is not through then.
    pub time: u64,
}

impl Plan {
    /// Process `number` of the run.
    pub fn of(random: &mut Rng) -> Self {
        Self {
            threads: random.of(&[1, 2, 2, 3, 4]),
            steps: random.of(&[1000, 20_000, 100_000]),
            ending: random.of(&[
                Ending::Exit,
                Ending::Close,
                Ending::Close,
                Ending::Exec,
                Ending::Killed,
                Ending::Killed,
            ]),
            time: random.of(&[5, 100, 1000, 5000, 5000, 10_000]),
        }
    }
}

static TARGET: AtomicU32 = AtomicU32::new(0);

/// The target that this host's vCPUs can be.
pub fn target() -> u32 {
    TARGET.load(Ordering::Relaxed)
}

/// Says what it is.
pub fn set_target(target: u32) {
    TARGET.store(target, Ordering::Relaxed);
}

static DESCRIPTORS: Descriptors = Descriptors::new();

/// A thread.
struct Worker {
    random: Rng,
    arena: &'static Arena,
    tally: &'static Tally,
    desk: Box<[u64; DESK / 8]>,
    alarm: Alarm,
}

/// A timer that sends its thread the signal that ends a stay in a guest.
#[derive(Clone, Copy)]
struct Alarm(Option<libc::timer_t>);

impl Alarm {
    /// From one signal to the next.
    const AGAIN: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 3_000_000 };

    /// This thread's.
    fn new() -> Self {
        // SAFETY: a structure of numbers, filled as SIGEV_THREAD_ID has it; the call writes the timer's name.
        unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGUSR1;
            event.sigev_notify_thread_id = libc::gettid();
            let mut timer = std::mem::zeroed();
            let made = libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer);
            Self((made == 0).then_some(timer))
        }
    }

    /// In so many microseconds, and again and again: the first may come before there is a stay to end. 0: no more. An emulated host
    /// does little else when it comes more often than [`Self::AGAIN`].
    fn after(self, microseconds: u32) {
        let Some(timer) = self.0 else { return };
        let time = libc::timespec { tv_sec: 0, tv_nsec: (microseconds * 1000) as libc::c_long };
        let again = if microseconds == 0 { time } else { Self::AGAIN };
        // SAFETY: a timer of this process's; the structures are read.
        unsafe {
            libc::timer_settime(
                timer,
                0,
                &libc::itimerspec { it_interval: again, it_value: time },
                std::ptr::null_mut(),
            );
        }
    }
}

extern "C" fn nothing(_: libc::c_int) {}

/// Lives the life of a hostile process. It does not return.
pub fn live(plan: &Plan, seed: u64, number: u64, tally: &'static Tally) -> ! {
    let limit = libc::rlimit { rlim_cur: LIMIT as libc::rlim_t, rlim_max: LIMIT as libc::rlim_t };
    let huge_pages = number.is_multiple_of(4);
    // SAFETY: settings of this process; the handler does nothing.
    unsafe {
        libc::setpgid(0, 0);
        libc::prctl(libc::PR_SET_THP_DISABLE, libc::c_ulong::from(!huge_pages), 0, 0, 0);
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        let handler =
            libc::sigaction { sa_sigaction: nothing as extern "C" fn(_) as *const () as usize, ..std::mem::zeroed() };
        libc::sigaction(libc::SIGUSR1, &handler, std::ptr::null_mut());
    }
    let Ok(arena) = Arena::new() else { end(4) };
    let arena: &Arena = Box::leak(Box::new(arena));
    let mut random = stream(seed, number);
    if arena.fill(&image::image(&mut random)).is_err() {
        end(4);
    }
    let mut first = Worker::new(random.u64(..), arena, tally);
    first.open();
    first.furnish();
    static DONE: AtomicUsize = AtomicUsize::new(0);
    let workers: Vec<_> = (0..plan.threads)
        .map(|_| {
            let steps = if plan.ending == Ending::Killed { u32::MAX } else { plan.steps };
            let seed = random.u64(..);
            std::thread::spawn(move || {
                let mut worker = Worker::new(seed, arena, tally);
                (0..steps).for_each(|_| worker.step(true));
                DONE.fetch_add(1, Ordering::Relaxed);
            })
        })
        .collect();
    let over = Instant::now() + Duration::from_millis(plan.time);
    loop {
        std::thread::sleep(Duration::from_millis(plan.time.min(20)));
        let through = DONE.load(Ordering::Relaxed) == plan.threads || Instant::now() > over;
        if through && plan.ending != Ending::Killed {
            first.finish(plan.ending);
        }
        for worker in &workers {
            // SAFETY: a thread that is not joined.
            unsafe { libc::pthread_kill(worker.as_pthread_t(), libc::SIGUSR1) };
        }
    }
}

/// Ends the process at once.
fn end(status: i32) -> ! {
    // SAFETY: nothing of this process is needed any more.
    unsafe { libc::_exit(status) }
}

impl Worker {
    /// The calling thread's.
    fn new(seed: u64, arena: &'static Arena, tally: &'static Tally) -> Self {
        Self { random: Rng::with_seed(seed), arena, tally, desk: Box::new([0; DESK / 8]), alarm: Alarm::new() }
    }

    /// The descriptors that a process begins with.
    fn open(&mut self) {
        for (kind, path) in [
            (Kind::System, c"/dev/kvm"),
            (Kind::System, c"/dev/kvm"),
            (Kind::Stranger, c"/dev/null"),
            (Kind::Stranger, c"/dev/zero"),
        ] {
            self.open_one(kind, path);
        }
        for _ in 0..4 {
            // SAFETY: makes a descriptor.
            let event = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK) };
            DESCRIPTORS.put(Kind::Event, event, &mut self.random);
        }
    }

    fn open_one(&mut self, kind: Kind, path: &CStr) {
        // SAFETY: makes a descriptor; the path ends with a zero.
        let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_NONBLOCK) };
        DESCRIPTORS.put(kind, fd, &mut self.random);
    }

    /// Makes a machine as a client does: memory with a program, a GIC or none, vCPUs that begin there. Whatever fails, fails.
    fn furnish(&mut self) {
        let system = DESCRIPTORS.get(Kind::System, &mut self.random);
        let vm = self.value(KVM_CREATE_VM, system, 0);
        DESCRIPTORS.put(Kind::Vm, vm, &mut self.random);
        let (program, bytes) = self.arena.program();
        let first = self.random.usize(..bytes / image::BYTES) * image::BYTES;
        let flags = self.random.of(&[0, 0, KVM_MEM_LOG_DIRTY_PAGES]);
        let at = |guest: u32, bytes: usize, slot: u32, flags: u32| UserspaceMemoryRegion {
            slot,
            flags,
            guest_phys_addr: guest.into(),
            memory_size: bytes as u64,
            userspace_addr: (program + first) as u64,
        };
        self.structure(KVM_SET_USER_MEMORY_REGION, vm, at(RAM, image::BYTES, 0, flags));
        self.structure(KVM_SET_USER_MEMORY_REGION, vm, at(image::READ_ONLY, 4 * PAGE, 1, KVM_MEM_READONLY));
        let vcpus = self.random.of(&[1, 1, 2, 3]);
        for id in 0..vcpus {
            let vcpu = self.value(KVM_CREATE_VCPU, vm, id);
            DESCRIPTORS.put(Kind::Vcpu, vcpu, &mut self.random);
            let _ = self.arena.map(vcpu, &mut self.random);
            let features = [self.random.of(&[2, 2, 2, 3, 0]), 0, 0, 0, 0, 0, 0];
            self.structure(KVM_ARM_VCPU_INIT, vcpu, VcpuInit { target: target(), features });
            let pc = RAM + self.random.u32(..0xc00) * 4;
            self.register(vcpu, core_reg(core_index::PC), pc);
            let mode = self.random.of(&[0x10, 0x11, 0x12, 0x13, 0x17, 0x1b, 0x1f, 0x1f3]);
            self.register(vcpu, core_reg(core_index::CPSR), mode);
        }
        if self.random.one_in(4) {
            return;
        }
        self.structure(KVM_CREATE_DEVICE, vm, CreateDevice { device_type: KVM_DEV_TYPE_ARM_VGIC_V2, fd: 0, flags: 0 });
        let gic = (self.desk[0] >> 32) as i32;
        if gic <= 0 {
            return;
        }
        DESCRIPTORS.put(Kind::Device, gic, &mut self.random);
        for (group, attr, value) in [
            (KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V2_ADDR_TYPE_DIST, GICD),
            (KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V2_ADDR_TYPE_CPU, GICC),
            (KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, 0),
        ] {
            let addr = self.park(value);
            self.structure(KVM_SET_DEVICE_ATTR, gic, DeviceAttr { flags: 0, group, attr, addr });
        }
    }

    /// Puts a value where no structure of a machine's making reaches, and says where.
    fn park(&mut self, value: u32) -> u64 {
        arguments::park(&mut self.desk, value.into())
    }

    fn register(&mut self, vcpu: RawFd, id: u64, value: u32) {
        let addr = self.park(value);
        self.structure(KVM_SET_ONE_REG, vcpu, OneReg { id, addr });
    }

    fn value(&mut self, number: u32, fd: RawFd, argument: usize) -> i32 {
        self.counted(number, fd, argument).unwrap_or(-1)
    }

    fn structure<T: Copy>(&mut self, number: u32, fd: RawFd, value: T) {
        assert!(size_of::<T>() <= DESK / 2 && size_of::<T>() >= argument_size(number));
        let desk = self.desk.as_mut_ptr();
        // SAFETY: room for it (just checked), aligned to eight bytes.
        unsafe { desk.cast::<T>().write(value) };
        let _ = self.counted(number, fd, desk as usize);
    }

    /// A call of a client's, counted with those of the grammar.
    fn counted(&mut self, number: u32, fd: RawFd, argument: usize) -> Result<i32, Errno> {
        // SAFETY: the argument is a number, or lies on the desk, which has more room than any call writes; addresses within are of the desk.
        let answer = unsafe { call(fd, number, argument) };
        self.tally.count(CALLS.iter().position(|call| call.number == number), answer);
        answer
    }

    /// Does one thing.
    fn step(&mut self, may_fork: bool) {
        match self.random.u32(..1024) {
            0 | 1 => self.furnish(),
            2 if may_fork => self.fork(),
            3 if self.random.one_in(4) => {
                DESCRIPTORS.close_all(&mut self.random);
                self.open();
                self.furnish();
            }
            4..=13 => self.other(|worker| worker.arena.disturb(&mut worker.random)),
            14..=30 => self.other(|worker| worker.arena.scribble(&mut worker.random)),
            31..=40 => self.other(Self::handle),
            41..=50 => self.strange(),
            _ => {
                let index = any_call(&mut self.random);
                self.make(index, &CALLS[index]);
            }
        }
    }

    fn other(&mut self, what: impl FnOnce(&mut Self)) {
        self.tally.others.fetch_add(1, Ordering::Relaxed);
        what(self);
    }

    /// Something that can be done with any descriptor.
    fn handle(&mut self) {
        let fd = DESCRIPTORS.any(&mut self.random);
        let kind = self.random.of(&[
            Kind::System,
            Kind::Vm,
            Kind::Vcpu,
            Kind::Vcpu,
            Kind::Device,
            Kind::Event,
            Kind::Stranger,
        ]);
        let at = self.arena.address(&mut self.random);
        // SAFETY: descriptors are at their users' risk; what is read goes to the arena.
        unsafe {
            match self.random.u32(..12) {
                0..=2 => DESCRIPTORS.close(&mut self.random),
                3 | 4 => DESCRIPTORS.put(kind, libc::dup(DESCRIPTORS.get(kind, &mut self.random)), &mut self.random),
                5..=7 => drop(self.arena.map(DESCRIPTORS.get(Kind::Vcpu, &mut self.random), &mut self.random)),
                8 => drop(self.arena.map(fd, &mut self.random)),
                9 => {
                    let mut poll = libc::pollfd { fd, events: !0, revents: 0 };
                    libc::poll(&mut poll, 1, 0);
                    let event = DESCRIPTORS.get(Kind::Event, &mut self.random);
                    libc::write(event, 1u64.to_ne_bytes().as_ptr().cast(), 8);
                }
                10 => {
                    let event = libc::eventfd(0, libc::EFD_NONBLOCK);
                    DESCRIPTORS.put(Kind::Event, event, &mut self.random);
                    self.open_one(Kind::System, c"/dev/kvm");
                }
                _ => {
                    libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK);
                    libc::read(fd, at as *mut _, 8);
                    libc::lseek(fd, 1, libc::SEEK_SET);
                    libc::fsync(fd);
                }
            }
        }
    }

    /// Makes a call of the grammar: mostly on a descriptor that it is for, with an argument that lies mostly where it should.
    fn make(&mut self, index: usize, call_made: &Call) {
        let fd = match self.random.u32(..32) {
            0 => DESCRIPTORS.any(&mut self.random),
            _ => DESCRIPTORS.get(call_made.on, &mut self.random),
        };
        let mut maker = Maker {
            random: &mut self.random,
            arena: self.arena,
            descriptors: &DESCRIPTORS,
            desk: &mut self.desk,
            used: 0,
            address_at: None,
        };
        let argument = match call_made.argument(&mut maker) {
            Argument::Value(value) => value,
            Argument::Structure => self.lay(),
        };
        // What is drawn because of the answer does not change what comes next.
        let mut random = self.random.fork();
        let stay = (call_made.number == KVM_RUN).then(|| self.random.u32(20..500) * self.random.of(&[1, 1, 1, 1, 8]));
        if let Some(time) = stay {
            self.alarm.after(time);
        }
        // SAFETY: the argument is a number, an address on the desk, in the arena, or where nothing is; so are those within it.
        let answer = unsafe { call(fd, call_made.number, argument) };
        if stay.is_some() {
            self.alarm.after(0);
        }
        self.tally.count(Some(index), answer);
        if let (Ok(made), Some(kind)) = (answer, call_made.makes) {
            DESCRIPTORS.put(kind, made, &mut random);
        }
        let device = (self.desk[0] >> 32) as i32;
        // One that was only asked for has no descriptor.
        let made = call_made.number == KVM_CREATE_DEVICE && answer.is_ok() && device > 0;
        if made && argument == self.desk.as_ptr() as usize {
            DESCRIPTORS.put(Kind::Device, device, &mut random);
        }
    }

    /// Where the structure on the desk is given to the kernel from: from there, from the arena, or from nowhere.
    fn lay(&mut self) -> usize {
        match self.random.u32(..16) {
            0 => nowhere(&mut self.random) as usize,
            1 => self.arena.address(&mut self.random),
            2 | 3 => {
                let (address, offset) = self.arena.place(&mut self.random);
                let words: [u32; 32] = std::array::from_fn(|word| (self.desk[word / 2] >> (word % 2 * 32)) as u32);
                self.arena.put(offset, &words);
                address
            }
            _ => self.desk.as_ptr() as usize,
        }
    }

    /// A number that is no call's.
    fn strange(&mut self) {
        let fd = DESCRIPTORS.any(&mut self.random);
        let number = strange_number(&mut self.random);
        // Standard calls of every file have numbers of another magic, and do nothing worse than to change how a descriptor of ours behaves.
        // SAFETY: the argument is in the arena or nowhere.
        let answer = unsafe { call(fd, number, self.arena.address(&mut self.random)) };
        self.tally.count(None, answer);
    }

    /// Forks a process that goes on with the same descriptors, for which KVM does nothing, and may outlive this one.
    fn fork(&mut self) {
        // SAFETY: the child makes system calls and writes to memory of its own.
        if unsafe { libc::fork() } != 0 {
            return;
        }
        // SAFETY: the signal ends the child: nobody else gets it out of a guest.
        unsafe { libc::alarm(1) };
        self.alarm = Alarm(None);
        if self.random.one_in(2) {
            std::thread::sleep(Duration::from_millis(self.random.u64(..30)));
        }
        (0..self.random.u32(..64)).for_each(|_| self.step(false));
        end(0)
    }

    fn finish(&mut self, ending: Ending) -> ! {
        match ending {
            Ending::Exit | Ending::Killed => {}
            Ending::Close => DESCRIPTORS.close_all(&mut self.random),
            Ending::Exec => {
                let (program, nothing) = (c"/proc/self/exe".as_ptr(), c"--nothing".as_ptr());
                // SAFETY: strings and lists that end as they must.
                unsafe { libc::execv(program, [program, nothing, std::ptr::null()].as_ptr()) };
            }
        }
        end(0)
    }
}

/// The system call `ioctl`.
///
/// # Safety
/// `argument` is a number, or what the kernel may read and write there is nothing that the process lives on.
unsafe fn call(fd: RawFd, number: u32, argument: usize) -> Result<i32, Errno> {
    // SAFETY: promised by the caller.
    Errno::result(unsafe { libc::ioctl(fd, number as libc::Ioctl, argument) })
}
