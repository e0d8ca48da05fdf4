//! Numbers of eight bits, by a table of what their codes stand for.

/// The upper halves of the `f32` numbers that the codes 0 to 127 stand for; the others are their negatives.
pub type Table = [u16; 128];

/// Writes the upper half of the number behind each code.
pub fn look_up(table: &Table, codes: &[u8], out: &mut [u16]) {
    assert_eq!(codes.len(), out.len(), "codes and numbers");
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512bw") {
        #[expect(unsafe_code, reason = "instructions that the baseline lacks")]
        // SAFETY: the instructions were found to exist.
        return unsafe { avx512::look_up(table, codes, out) };
    }
    look_up_plainly(table, codes, out);
}

fn look_up_plainly(table: &Table, codes: &[u8], out: &mut [u16]) {
    for (out, code) in out.iter_mut().zip(codes) {
        *out = table[usize::from(code & 0x7f)] | u16::from(code & 0x80) << 8;
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m256i, __m512i, _mm256_loadu_si256, _mm512_and_si512, _mm512_cvtepu8_epi16, _mm512_loadu_si512,
        _mm512_mask_blend_epi16, _mm512_or_si512, _mm512_permutex2var_epi16, _mm512_set1_epi16,
        _mm512_slli_epi16, _mm512_storeu_si512, _mm512_test_epi16_mask,
    };

    use super::{Table, look_up_plainly};

    const AT_ONCE: usize = 32;

    /// The table lies in four registers, of which one instruction picks from two.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn look_up(table: &Table, codes: &[u8], out: &mut [u16]) {
        let quarter = |index: usize| {
            let quarter: &[u16] = &table[index * AT_ONCE..][..AT_ONCE];
            #[expect(
                unsafe_code,
                clippy::cast_ptr_alignment,
                reason = "a vector from memory, wherever it lies"
            )]
            // SAFETY: 32 numbers of 16 bits are one vector.
            unsafe {
                _mm512_loadu_si512(quarter.as_ptr().cast::<__m512i>())
            }
        };
        let quarters = [quarter(0), quarter(1), quarter(2), quarter(3)];
        let (upper_half, sign) = (_mm512_set1_epi16(0x40), _mm512_set1_epi16(i16::MIN));
        let (codes, last_codes) = codes.as_chunks::<AT_ONCE>();
        let (out, last_out) = out.as_chunks_mut::<AT_ONCE>();
        for (codes, out) in codes.iter().zip(out) {
            #[expect(
                unsafe_code,
                clippy::cast_ptr_alignment,
                reason = "vectors in memory, wherever they lie"
            )]
            // SAFETY: 32 codes are half a vector, and 32 numbers one.
            unsafe {
                let codes = _mm512_cvtepu8_epi16(_mm256_loadu_si256(codes.as_ptr().cast::<__m256i>()));
                let lower = _mm512_permutex2var_epi16(quarters[0], codes, quarters[1]);
                let upper = _mm512_permutex2var_epi16(quarters[2], codes, quarters[3]);
                let is_upper = _mm512_test_epi16_mask(codes, upper_half);
                let numbers = _mm512_mask_blend_epi16(is_upper, lower, upper);
                let signs = _mm512_and_si512(_mm512_slli_epi16::<8>(codes), sign);
                _mm512_storeu_si512(out.as_mut_ptr().cast::<__m512i>(), _mm512_or_si512(numbers, signs));
            }
        }
        look_up_plainly(table, last_codes, last_out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_as_by_hand() {
        let table = std::array::from_fn(|index| (index * 251 % 30_000) as u16);
        let codes: Vec<u8> = (0..=255).chain(0..77).collect();
        let (mut fast, mut plain) = (vec![0; codes.len()], vec![0; codes.len()]);
        look_up(&table, &codes, &mut fast);
        look_up_plainly(&table, &codes, &mut plain);
        assert_eq!(fast, plain);
        assert_eq!(plain[200], table[72] | 0x8000);
    }
}
