//! The random bits of torch's CPU generator. What is made of them is for others to say.

/// MT19937 of Matsumoto and Nishimura (1998).
pub struct MersenneTwister {
    state: [u32; Self::WORDS],
    next: usize,
}

impl MersenneTwister {
    const WORDS: usize = 624;
    const MIDDLE: usize = 397;

    pub fn new(seed: u32) -> Self {
        let mut state = [seed; Self::WORDS];
        for i in 1..Self::WORDS {
            let last = state[i - 1];
            state[i] = 1_812_433_253_u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i as u32);
        }
        Self { state, next: Self::WORDS }
    }

    /// 32 bits.
    pub fn word(&mut self) -> u32 {
        if self.next == Self::WORDS {
            self.twist();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn twist(&mut self) {
        for i in 0..Self::WORDS {
            let following = self.state[(i + 1) % Self::WORDS];
            let joined = (self.state[i] & 0x8000_0000) | (following & 0x7fff_ffff);
            let feedback = if joined & 1 == 0 { 0 } else { 0x9908_b0df };
            self.state[i] = self.state[(i + Self::MIDDLE) % Self::WORDS] ^ (joined >> 1) ^ feedback;
        }
        self.next = 0;
    }

    /// In [0, 1), in steps of 2^-24.
    pub fn uniform(&mut self) -> f32 {
        (self.word() & 0x00ff_ffff) as f32 * 2.0_f32.powi(-24)
    }

    /// In [0, 1), in steps of 2^-53.
    pub fn uniform_double(&mut self) -> f64 {
        let (high, low) = (u64::from(self.word()), u64::from(self.word()));
        (((high << 32) | low) & ((1 << 53) - 1)) as f64 * 2.0_f64.powi(-53)
    }
}
